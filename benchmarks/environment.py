"""The environment of processes that import `benchmarks`, wherever they are started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_REPOSITORY = str(Path(__file__).resolve().parents[1])


def with_benchmarks(env: Mapping[str, str]) -> dict[str, str]:
    """`env` with this repository first on the module path."""
    path = os.pathsep.join([_REPOSITORY, *filter(None, [env.get("PYTHONPATH")])])
    return {**env, "PYTHONPATH": path}
