"""A real vLLM server in virtual time: its metrics, a client that goes away, sleep and wake-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from revati.bench.plan import free_port
from tests.engines.programs.server_client import LONG, TOKENS

pytest.importorskip("vllm")
pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the client saw."""
    port = free_port()
    vllm = f"{sys.executable} -m vllm.entrypoints.cli.main"
    small = """--hf-overrides '{"num_hidden_layers": 2}' --max-model-len 4096 --max-num-seqs 8"""
    script = f"""
      {vllm} serve {MODEL} --port {port} --enable-sleep-mode {small} & server=$!
      {sys.executable} -m tests.engines.programs.server_client localhost:{port} {MODEL}; code=$?
      kill $server; wait; exit $code"""
    line = [sys.executable, "-m", "revati.cli.main", "run", "--gpu", "h100_sxm", "--cpu-time", "free"]
    env = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    done = subprocess.run([*line, "--", "bash", "-c", script], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    row = next(row for row in done.stdout.splitlines() if row.startswith("SEEN "))
    return dict(json.loads(row.removeprefix("SEEN ")))


def test_metrics_are_in_virtual_time(seen: dict[str, Any]) -> None:
    assert seen["completion"] == 200 and seen["generated"] == TOKENS
    assert 0 < seen["engine_s"] < seen["client_s"] < seen["engine_s"] + 0.001


def test_a_client_that_goes_away_ends_its_request(seen: dict[str, Any]) -> None:
    assert seen["first_bytes"] == "data:" and seen["running"] == 1
    assert seen["still_running"] == 0
    assert 0 < seen["generated_after_abort"] < LONG
    assert seen["kv_after_abort"] == 0


def test_an_engine_sleeps_and_wakes_up(seen: dict[str, Any]) -> None:
    assert seen["sleep"] == 200 and seen["is_sleeping"] == {"is_sleeping": True}
    assert seen["wake_up"] == 200 and seen["awake"] == {"is_sleeping": False}
    assert seen["completion_after_sleep"] == 200
