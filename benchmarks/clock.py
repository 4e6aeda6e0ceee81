"""Cost of the virtual clock: a clock read, and a jump. Prints one JSON object.

    python benchmarks/clock.py [--jumps N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

READ = """
#include <stdio.h>
#include <time.h>
static double cpu(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}
int main(void) {
  struct timespec t; double best = 1e9;
  for (int round = 0; round < 50; round++) {
    double begin = cpu();
    for (int i = 0; i < 10000; i++) clock_gettime(CLOCK_MONOTONIC, &t);
    double took = (cpu() - begin) / 10000 * 1e9;
    if (took < best) best = took;
  }
  printf("%.2f\\n", best);
}
"""
JUMP = """
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void* idle(void* p) { sleep(1000000); return p; }
int main(int n, char** a) {
  int processes = atoi(a[1]), threads = atoi(a[2]), jumps = atoi(a[3]);
  (void)n;
  for (int p = 0; p < processes; p++)
    if (fork() == 0) {
      pthread_t t;
      for (int i = 1; i < threads; i++) pthread_create(&t, 0, idle, 0);
      struct timespec s = {0, 1000000}, first = {0, 1000 + 50000 * p};  // no two deadlines fall together
      nanosleep(&first, 0);
      for (int i = 0; i < jumps; i++) nanosleep(&s, 0);
      _exit(0);
    }
  while (wait(0) > 0) {}
}
"""


def build(folder: Path, name: str, source: str) -> Path:
    """Compile one C program."""
    (folder / f"{name}.c").write_text(source)
    program = folder / name
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, folder / f"{name}.c"], check=True)
    return program


def in_virtual_time(mode: str, stats: Path, *command: str) -> tuple[str, dict]:
    """Output and statistics of a run."""
    options = ["--quiet", "--cpu-time", mode, "--stats", str(stats)]
    line = [sys.executable, "-m", "revati.clock", *options, "--", *command]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return done.stdout, json.loads(stats.read_text())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jumps", type=int, default=5000, help="sleeps for each process")
    jumps = parser.parse_args().jumps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read, jump = build(folder, "read", READ), build(folder, "jump", JUMP)
        result: dict = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                        "load": os.getloadavg()[0], "clock_read_ns": {}, "jump_us": {}}
        reads = result["clock_read_ns"]
        reads["unshimmed"] = float(subprocess.run([read], check=True, capture_output=True, text=True).stdout)
        for mode in ("free", "charged", "wall"):
            reads[mode] = float(in_virtual_time(mode, folder / "stats", str(read))[0])
        if fake := shutil.which("faketime"):
            out = subprocess.run([fake, "-f", "+0", read], capture_output=True, text=True).stdout
            reads["libfaketime"] = float(out) if out else None
        for processes, threads in ((1, 1), (2, 1), (8, 1), (2, 30)):
            each = max(1, jumps // processes)
            command = (str(jump), str(processes), str(threads), str(each))
            runs = [in_virtual_time("free", folder / "stats", *command)[1] for _ in range(3)]
            best = min(r["wall_s"] / r["jumps"] for r in runs)
            result["jump_us"][f"{processes}x{threads}"] = round(best * 1e6, 1)
        result["jumps_per_s"] = round(1e6 / result["jump_us"]["2x1"])
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
