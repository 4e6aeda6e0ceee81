"""Clients one after another, as one program: `python -m benchmarks.accuracy.clients SPEC`.

SPEC is a JSON list of commands `python -m MODULE ...`, all of one module whose `main()` reads `sys.argv`.
Each runs in a fork of this process, which has imported what `vllm bench serve` needs: half a minute of it
once. The first that fails ends the program with its code.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from revati.bench.client import PRELOADED, wait_at_gate


def run_in_fork(command: list[str]) -> int:
    """Carry out `python -m MODULE ARGUMENTS...` in a child; its exit code (128 + number for a signal)."""
    _, _, module, *arguments = command
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        sys.argv = [module, *arguments]
        code: object = 1
        try:
            importlib.import_module(module).main()
            code = 0
        except SystemExit as ending:
            code = ending.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else int(code is not None))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def main() -> int:
    """Run the commands of the file that is the only argument."""
    for module in PRELOADED:
        importlib.import_module(module)
    wait_at_gate()
    for command in json.loads(Path(sys.argv[1]).read_text()):
        code = run_in_fork(command)
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
