"""Engine processes that are told to end have the time to say what they launched (`write_reports`).

`vllm serve` ends them with a signal and, unless `--shutdown-timeout` says otherwise, kills them in the same
moment. Requests are aborted at once all the same: their timeout is another one.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from revati.cuda import ledger

if TYPE_CHECKING:
    from types import ModuleType

GRACE_S = 30.0
"""Virtual seconds from the signal to the kill; processes that end sooner are not waited for."""


def give_time(module: ModuleType) -> None:
    """Change `vllm.v1.engine.utils`: how long the manager of engine processes waits for their end."""
    usual = getattr(module, "shutdown", None)
    if usual is None or "timeout" not in inspect.signature(usual).parameters:
        return  # before 0.14: five seconds

    def shutdown(procs: Any, timeout: float | None = None) -> None:
        usual(procs, timeout=GRACE_S if timeout == 0 else timeout)

    ledger.replace(
        module,
        "shutdown",
        shutdown,
        why="what a process launched is written when it ends, and a killed process writes nothing",
        until="never",
    )


PATCHES = {"vllm.v1.engine.utils": give_time}
