"""What a model launches under an engine, found out by running it on the virtual device.

The engine starts as `revati run` would start it, with two layers and folded ranks, prefills and decodes a few
requests, and every process writes down the ops that it priced (`latency.worklog`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from revati.latency import worklog
from revati.profiler.measure import MeasurementError

PROGRAMS = {"vllm": "revati.engines.vllm.record_ops"}
TIMEOUT_S = 1200.0
_TOKENIZER = "tokenizer*"


def check_config(path: Path) -> dict[str, Any]:
    """The model config at `path`. Raises MeasurementError for what is no config.json of a decoder."""
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise MeasurementError(f"{path}: {error.strerror}; a model's config.json is expected") from None
    except ValueError as error:
        raise MeasurementError(f"{path}: not JSON ({error}); a model's config.json is expected") from None
    if not isinstance(config, dict) or not config.get("architectures"):
        raise MeasurementError(f"{path}: no field 'architectures'; a model's config.json is expected")
    return config


def record(
    config: Path, *, gpu: str, engine: str, tensor_parallel: int, timeout_s: float = TIMEOUT_S
) -> list[dict[str, Any]]:
    """Rows of the work log of one engine start on `tensor_parallel` virtual GPUs.

    Raises MeasurementError for an engine that cannot be recorded or is not installed, a machine without the
    virtual device, and an engine that fails (with its last error line).
    """
    if engine not in PROGRAMS:
        raise MeasurementError(f"engine {engine!r} cannot be recorded; known: {', '.join(PROGRAMS)}")
    if importlib.util.find_spec(engine) is None:
        raise MeasurementError(f"{engine} is not installed here; `pip install {engine}`")
    if importlib.util.find_spec("revati._C") is None:
        raise MeasurementError(
            "the virtual device is not built here (a CUDA build of PyTorch?); where it is, run `revati "
            "profile collect --model ... --dry-run > shapes.jsonl`, and here `collect --shapes shapes.jsonl`"
        )
    check_config(config)
    with tempfile.TemporaryDirectory() as scratch:
        model, log = Path(scratch) / "model", Path(scratch) / "log"
        model.mkdir()
        log.mkdir()
        shutil.copyfile(config, model / "config.json")
        for file in config.parent.glob(_TOKENIZER):
            shutil.copyfile(file, model / file.name)
        command = [sys.executable, "-m", "revati.cli.main", "run", "--gpu", gpu, "--cpu-time", "free"]
        if tensor_parallel > 1:
            command += ["--gpus", str(tensor_parallel), "--fold-ranks"]
        command += ["--", sys.executable, "-m", PROGRAMS[engine], str(model), str(tensor_parallel)]
        environment = {**os.environ, worklog.ENV: str(log)}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout_s
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{engine} did not finish within {timeout_s:.0f} s") from None
        if done.returncode != 0:
            reason = _last_error(done.stdout + done.stderr)
            raise MeasurementError(f"{engine} cannot run this model: {reason}")
        rows = [json.loads(line) for file in sorted(log.glob("*.jsonl")) for line in file.open()]
    if not rows:
        raise MeasurementError(f"{engine} launched nothing on the virtual device")
    return rows


def _last_error(output: str) -> str:
    """The last line that names an error, with the first of its reasons where pydantic lists them below it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    errors = [k for k, line in enumerate(lines) if "Error" in line and not line.startswith("File ")]
    last = errors[-1] if errors else len(lines) - 1
    found = lines[last][-300:]
    if "validation error" in found and last + 1 < len(lines):
        found += f": {lines[last + 1][:300]}"
    return found
