"""Runs before anything else in every Python process of `revati run`, whichever way the process was started.

It only leaves a note for later: nothing is imported and nothing patched until the process imports torch.
A sitecustomize that the environment already had still runs.
"""

import os
import sys


def _chain() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in sys.path:
        if not folder or os.path.abspath(folder) == here:
            continue
        path = os.path.join(folder, "sitecustomize.py")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                exec(compile(file.read(), path, "exec"), {"__name__": "sitecustomize", "__file__": path})
            return


def _boot() -> None:
    if os.environ.get("REVATI_IDENTITY") != "cuda":
        return
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        from revati.cuda.identity import arm
    except ModuleNotFoundError:  # an interpreter without Revati installed: use the one that started the run
        sys.path.append(package)
        try:
            from revati.cuda.identity import arm
        finally:
            sys.path.remove(package)
    arm()


_chain()
_boot()
