"""Kills, deadlocks, programs that cannot be covered: each has a defined end, and none is a hang."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clock.command import command_line

FOREVER = "import threading; threading.Event().wait()"


def start(tmp_path: Path, program: str, *options: str) -> subprocess.Popen[str]:
    """A run in the background whose processes can be recognised by their mark."""
    mark = f"# {tmp_path}"
    argv = [sys.executable, "-c", program + "\n" + mark]
    line = command_line(argv, "free", options, tmp_path / "stats.json")
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(tmp_path: Path, program: str = "") -> list[int]:
    """Processes of the run: their command line names the test's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if entry.name.isdigit() and state != "Z" and any(str(tmp_path) in w for w in words):
            found.append(int(entry.name))
    return [p for p in found if p != os.getpid()]


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_leaves_no_orphans(tmp_path, number):
    ready = tmp_path / "ready"
    run = start(tmp_path, f"""
import os, signal, threading
if os.fork() == 0: signal.signal(signal.SIGTERM, signal.SIG_IGN)
else: open({str(ready)!r}, "w").close()
threading.Event().wait()""", "--grace", "1")
    wait_for(ready.exists)
    run.send_signal(number)
    assert run.wait(timeout=8) == 128 + number
    assert alive(tmp_path) == []
    assert json.loads((tmp_path / "stats.json").read_text())["exit_code"] == 128 + number


def test_a_stubborn_command_is_killed_after_the_grace_period(tmp_path):
    ready = tmp_path / "ready"
    run = start(tmp_path, f"""
import signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, "w").close()
threading.Event().wait()""", "--grace", "0.5")
    wait_for(ready.exists)
    run.terminate()
    assert run.wait(timeout=8) == 128 + signal.SIGKILL
    assert alive(tmp_path) == []


def test_background_processes_end_with_the_command(virtual, tmp_path):
    run = virtual(["sh", "-c", f"{sys.executable} -c '{FOREVER} # {tmp_path}/left' & exit 7"])
    assert run.code == 7
    assert [p for p in alive(tmp_path / "left")] == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_timekeeper_ends_the_run(tmp_path, which):
    """0: the outer process of the timekeeper, 1: the inner one that keeps the time."""
    ready = tmp_path / "ready"
    run = start(tmp_path, f"open({str(ready)!r}, 'w').close(); {FOREVER}")
    wait_for(ready.exists)
    victim = run.pid
    for _ in range(which + 1):
        victim = int(Path(f"/proc/{victim}/task/{victim}/children").read_text().split()[0])
    os.kill(victim, signal.SIGKILL)
    assert run.wait(timeout=20) in (70, 137)
    wait_for(lambda: alive(tmp_path) == [], 15)


@pytest.mark.parametrize("how", ["interrupt", "terminate", "kill"])
def test_nothing_is_left_when_the_launcher_ends(tmp_path, how):
    """Ctrl-C reaches the whole group; a killed launcher cannot clean up, so the timekeeper does.

    Not from a terminal, so the command gets it twice; Python's `Event.wait` may not survive the second one.
    """
    ready = tmp_path / "ready"
    program = f"""
import os
folder = os.environ["REVATI_RUN_DIR"]
os.truncate(os.open(folder + "/collectives", os.O_CREAT | os.O_RDWR), 1 << 38)
os.fork()
open({str(ready)!r}, "a").write(folder + "\\n")
os.read(os.pipe()[0], 1) # {tmp_path}"""
    line = [sys.executable, "-m", "revati.clock", "--grace", "1", "--", sys.executable, "-c", program]
    run = subprocess.Popen(line, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(lambda: ready.exists() and ready.read_text().count("\n") == 2 and len(alive(tmp_path)) >= 3)
    folder = Path(ready.read_text().splitlines()[0])
    assert folder.is_dir()
    if how == "interrupt":
        os.killpg(run.pid, signal.SIGINT)
    else:
        run.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGKILL)
    code = run.wait(timeout=15)
    assert code == {"interrupt": 130, "terminate": 143, "kill": -9}[how], run.stderr.read()
    wait_for(lambda: alive(tmp_path) == [] and not folder.exists(), 10)


def test_killed_threads_and_processes_do_not_stop_the_clock(virtual):
    run = virtual("""
        import json, os, random, signal, time
        t = time.monotonic(); rnd = random.Random(1)
        for round in range(30):
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                if os.fork() == 0:
                    while True: os.write(w, b"x"); time.sleep(0.1)
                while True: time.sleep(rnd.choice([0.001, 0.002])); os.read(r, 1)
            time.sleep(rnd.random() * 0.02)
            for _ in range(rnd.randrange(2000)): pass
            os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); os.close(r)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        time.sleep(20)
        print(json.dumps({"took": time.monotonic() - t}))
    """, timeout=60)
    assert 20 < run.values()["took"] < 22


STATES = {
    "sleep": "time.sleep(1000)",
    "semaphore": "threading.Semaphore(0).acquire()",
    "timed semaphore": "threading.Semaphore(0).acquire(timeout=1000)",
    "condition": "c = libc.calloc(1, 64); m = libc.calloc(1, 64); libc.pthread_mutex_lock(m)\n"
                 "libc.pthread_cond_wait(c, m)",
    "epoll": "select.epoll().poll(1000)",
    "read": "os.read(os.pipe()[0], 1)",
    "accept": "socket.create_server(('127.0.0.1', 0)).accept()",
    "a wait for a child": "subprocess.run(['sleep', '1000'])",
    "a wait for a thread": "t = threading.Thread(target=time.sleep, args=(1000,)); t.start(); t.join()",
    "a lock": "l = threading.Lock(); l.acquire(); l.acquire()",
    "a spin": "while True: os.sched_yield()",
    "an alarm": "signal.alarm(1000); signal.pause()",
}


@pytest.mark.parametrize("state", STATES)
def test_a_process_killed_in_any_wait_does_not_stop_the_clock(virtual, state):
    run = virtual(f"""
import ctypes, json, os, select, signal, socket, subprocess, threading, time
t = time.monotonic(); r, w = os.pipe(); pid = os.fork()
if pid == 0:
    libc = ctypes.CDLL(None); libc.calloc.restype = ctypes.c_void_p
    libc.pthread_mutex_lock.argtypes = [ctypes.c_void_p]
    libc.pthread_cond_wait.argtypes = [ctypes.c_void_p] * 2
    os.write(w, b"x")
    {STATES[state].replace(chr(10), chr(10) + "    ")}
os.read(r, 1); time.sleep(1)
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); time.sleep(10)
print(json.dumps({{"took": time.monotonic() - t}}))
""")
    assert run.values()["took"] == pytest.approx(11, abs=1e-3)
    assert run.wall_s < 8


def without_system_call(number: int) -> None:
    """Make one system call look as if this kernel had none of it, for this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, answer = 0x20, 0x15, 0x06  # BPF: load word, jump if equal, return
    refuse, allow = 0x50000 | errno.ENOSYS, 0x7FFF0000
    lines = [(load, 0, 0, 0), (equal, 0, 1, number), (answer, 0, 0, refuse), (answer, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(lines), ctypes.addressof(code)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP


def test_a_kernel_without_futex_waitv_is_refused_in_one_line(tmp_path):
    line = command_line(["true"], "free", (), tmp_path / "stats.json")
    done = subprocess.run(line, capture_output=True, text=True, preexec_fn=lambda: without_system_call(449))
    assert done.returncode == 2
    assert "futex_waitv" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_without_proc_the_run_is_refused_in_one_line(tmp_path):
    hide = "mount -t tmpfs none /proc && exec \"$@\""
    hidden = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    if subprocess.run([*hidden, "true"], capture_output=True).returncode:
        pytest.skip("/proc cannot be hidden here")
    line = [*hidden, *command_line(["true"], "free", (), tmp_path / "stats.json")]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2
    assert "/proc" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_everybody_waits_without_a_deadline(virtual):
    run = virtual(FOREVER, "free", "--exit-when-stuck")
    assert run.code == 3 and 5 < run.wall_s < 12
    said = [line for line in run.err.splitlines() if "all 1 threads wait" in line]
    assert len(said) == 1 and "semaphore" in run.err and run.stats["stuck"]


def test_a_stuck_run_never_jumps_and_goes_on_when_woken(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = start(tmp_path, f"""
import os, time
t = time.monotonic(); os.read(os.open({str(gate)!r}, os.O_RDWR), 1)
print(time.monotonic() - t < 1e-3)""")
    time.sleep(1.5)
    with open(gate, "wb", buffering=0) as f:
        f.write(b"x")
        out, _ = run.communicate(timeout=10)
    assert out.strip() == "True"


def test_a_program_that_never_waits(virtual):
    run = virtual("import json\nx = sum(i for i in range(3_000_000))\nprint(json.dumps({'x': x}))")
    assert run.values()["x"] > 0 and run.stats["virtual_s"] < 1e-3


def test_a_statically_linked_program_is_refused_or_run_in_real_time(virtual, tmp_path):
    source, static = tmp_path / "s.c", tmp_path / "s"
    source.write_text("#include <unistd.h>\nint main(){usleep(200000);return 5;}")
    if subprocess.run(["gcc", "-static", "-o", static, source], capture_output=True).returncode:
        pytest.skip("no static libc")
    refused = virtual([str(static)])
    assert refused.code == 2 and "statically linked" in refused.err and "--allow-real-time" in refused.err
    assert virtual([str(static)], "free", "--allow-real-time").code == 5
    child = virtual(["sh", "-c", f"{static}; exit $?"])
    assert child.code == 5 and "statically linked" in child.err


def test_a_clock_set_backwards_moves_the_wall_clock_only(virtual):
    v = virtual("""
        import json, time
        m, w = time.monotonic(), time.time()
        time.clock_settime(time.CLOCK_REALTIME, w - 1000)
        time.sleep(5)
        print(json.dumps({"mono": time.monotonic() - m, "wall": time.time() - w}))
    """).values()
    assert v["mono"] == pytest.approx(5, abs=1e-5) and v["wall"] == pytest.approx(-995, abs=1e-3)


def test_fork_exec_and_thread_exit_while_others_wait(virtual):
    v = virtual("""
        import json, os, subprocess, sys, threading, time
        t = time.monotonic()
        waiting = threading.Thread(target=time.sleep, args=(1000,), daemon=True); waiting.start()
        threads = [threading.Thread(target=lambda: None) for _ in range(200)]
        [x.start() for x in threads]; [x.join() for x in threads]
        if os.fork() == 0:
            threading.Thread(target=time.sleep, args=(500,), daemon=True).start()
            threading.Thread(target=lambda: os.execv("/bin/sleep", ["sleep", "2"])).start()
            time.sleep(1000)
        os.wait()
        for _ in range(20): subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.5)"])
        print(json.dumps({"took": time.monotonic() - t})); sys.stdout.flush(); os._exit(0)
    """, timeout=60).values()
    assert v["took"] == pytest.approx(12, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--cpu-factor", "0"], "--cpu-factor"),
        (["--epoch", "-1"], "--epoch"),
        (["--time-log", "/nonexistent/log"], "--time-log|time log"),
        (["--run-dir", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_bad_options_are_one_clear_line(virtual, options, names):
    run = virtual(["true"], "free", *options)
    assert run.code == 2 and any(n in run.err for n in names.split("|"))
    assert len(run.err.strip().splitlines()) == 1


def test_a_missing_command_is_one_clear_line(virtual):
    run = virtual(["no-such-program-here"])
    assert run.code == 127 and "cannot run no-such-program-here" in run.err
    assert virtual([]).code == 2


def test_exit_codes_and_epoch_reach_the_user(virtual):
    assert virtual(["sh", "-c", "exit 42"]).code == 42
    assert virtual(["sh", "-c", "kill -9 $$"]).code == 137
    assert virtual(["date", "-u", "+%Y-%m-%d"], "free", "--epoch", "1767225600").out.strip() == "2026-01-01"
