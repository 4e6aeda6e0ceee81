"""Clients one after another, as one program: `python -m benchmarks.accuracy.clients SPEC`.

SPEC is a JSON list of commands. The first that fails ends the program with its code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the commands of the file that is the only argument."""
    for command in json.loads(Path(sys.argv[1]).read_text()):
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
