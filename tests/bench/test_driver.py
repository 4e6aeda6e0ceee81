"""The driver: readiness, clean stop, no orphans. Server and client are small real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from revati.bench.plan import METRICS, SERVER_LOG, STATUS, BenchPlan, free_port

SERVER = """
import http.server, subprocess, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(b'vllm:generation_tokens_total{engine="0"} 42.0\\n')
    def log_message(self, *a): pass
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3000)"])
print("worker", worker.pid, flush=True)
time.sleep(float(sys.argv[2]))
if sys.argv[3] == "crash":
    sys.exit("no memory")
try:
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
except KeyboardInterrupt:
    print("server stopped")
"""


def make_plan(folder: Path, client: list[str], mode: str = "serve", start_s: float = 0.0) -> Path:
    port = free_port()
    (folder / "server.py").write_text(SERVER)
    plan = BenchPlan(
        model="m",
        gpus_needed=1,
        server_command=[sys.executable, "-S", str(folder / "server.py"), str(port), str(start_s), mode],
        client_command=client,
        base_url=f"http://127.0.0.1:{port}",
        run_dir=folder,
        stop_timeout_s=5.0,
    )
    path = folder / "plan.json"
    path.write_text(plan.to_json())
    return path


def worker_is_gone(folder: Path) -> bool:
    pid = int((folder / SERVER_LOG).read_text().split()[1])
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def python(code: str) -> list[str]:
    """A client that waits at the gate, as `revati.bench.client` does."""
    return [sys.executable, "-S", "-c", f"assert input() == 'go'\n{code}"]


def drive(plan: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "revati.bench.driver", str(plan)], timeout=60, check=False)


def test_a_run_to_the_end(tmp_path: Path) -> None:
    assert drive(make_plan(tmp_path, python("print('client')"), start_s=0.3)).returncode == 0
    status = json.loads((tmp_path / STATUS).read_text())
    assert status["stage"] == "done" and status["client_exit"] == 0
    assert status["ready_s"] >= 0.3
    assert "42.0" in (tmp_path / METRICS).read_text()
    assert "server stopped" in (tmp_path / SERVER_LOG).read_text()
    assert worker_is_gone(tmp_path)


def test_the_client_starts_beside_the_server_and_is_let_go_when_that_is_ready(tmp_path: Path) -> None:
    """On the clock of the machine, which both see: the client is up before the server answers."""
    code = (
        "import time; open('early', 'w').write(str(time.time())); assert input() == 'go'\n"
        "open('go', 'w').write(str(time.time()))\n"
        "import sys; assert sys.stdin.read() == ''"
    )
    plan = make_plan(tmp_path, [sys.executable, "-S", "-c", code], start_s=1.5)
    line = [sys.executable, "-m", "revati.bench.driver", str(plan)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(line, timeout=60, check=False, cwd=tmp_path, env=environment).returncode == 0
    early, go = (float((tmp_path / name).read_text()) for name in ("early", "go"))
    assert go - early > 0.5


def test_a_server_that_fails_takes_the_waiting_client_along(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid())); input()"
    plan = make_plan(tmp_path, [sys.executable, "-S", "-c", code], mode="crash", start_s=1.0)
    assert drive(plan).returncode == 2
    assert json.loads((tmp_path / STATUS).read_text())["client_exit"] is None
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_a_failing_client_gives_its_code(tmp_path: Path) -> None:
    assert drive(make_plan(tmp_path, python("raise SystemExit(3)"))).returncode == 3
    assert json.loads((tmp_path / STATUS).read_text())["stage"] == "client failed"
    assert worker_is_gone(tmp_path)


def test_a_server_that_dies_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    assert drive(make_plan(tmp_path, python("pass"), mode="crash")).returncode == 2
    status = json.loads((tmp_path / STATUS).read_text())
    assert status["stage"] == "server failed" and "before it was ready" in status["error"]
    assert worker_is_gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_there_is(tmp_path: Path, number: signal.Signals) -> None:
    started = tmp_path / "started"
    client = python(f"import time; open({str(started)!r}, 'w').close(); time.sleep(3000)")
    driver = subprocess.Popen([sys.executable, "-m", "revati.bench.driver", str(make_plan(tmp_path, client))])
    for _ in range(200):
        if started.exists():
            break
        time.sleep(0.05)
    os.kill(driver.pid, number)
    time.sleep(0.3)
    os.kill(driver.pid, number)  # an impatient user's second one changes nothing
    assert driver.wait(timeout=30) == 130
    assert json.loads((tmp_path / STATUS).read_text())["stage"] == "interrupted"
    assert "42.0" in (tmp_path / METRICS).read_text()
    assert worker_is_gone(tmp_path)
