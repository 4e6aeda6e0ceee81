"""Makes an environment with a vLLM that was built for an older PyTorch, beside the one Revati is built for.

    python -m benchmarks.older_vllm 0.11.0 [FOLDER]

Such a wheel asks for its own PyTorch, whose CUDA build pip would bring with it. Everything else that it asks
for is installed as it says; its kernel libraries are declared, not loaded (`revati/cuda/declared.py`).
Default folder: `.venv-vllm-VERSION` in this repository. With its `bin` first in PATH, `revati` and
`python -m benchmarks.accuracy` run that engine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from revati.engines.vllm.versions import OLDER, is_older

ROOT = Path(__file__).parents[1]
TORCH = "torch==2.13.0"
_OF_ANOTHER_TORCH = ("torch", "torchaudio", "torchvision", "xformers")
_NOT_NEEDED = ("ray",)  # several nodes
_OURS = ("pybind11>=2.13", "xgboost>=2.1", "pyarrow>=15", "pandas>=2", "rich>=13", "typer>=0.12", "plotly",
         "setuptools>=77,<80", "wheel", "ninja", "triton", "torchvision", "nvidia-cuda-runtime",
         "nvidia-cuda-runtime-cu12")  # fmt: skip


def default_folder(version: str) -> Path:
    """Where the environment of a version lies."""
    return ROOT / f".venv-vllm-{version}"


def requirements(vllm_metadata: list[str]) -> list[str]:
    """What a wheel asks for (its `Requires-Dist` lines), without extras and without what is left out here."""
    kept = []
    for line in vllm_metadata:
        name = re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower()
        if "extra ==" not in line and name not in (*_OF_ANOTHER_TORCH, *_NOT_NEEDED):
            kept.append(line)
    return kept


def refusal(version: str, folder: Path) -> str | None:
    """Why no environment is made, or None. The folder is cleared: it must be an environment, or empty."""
    if not is_older(version):
        return f"vLLM {version}: expected one of {', '.join(OLDER)} (revati/engines/vllm/versions.py)"
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not (folder / "pyvenv.cfg").is_file():
        return f"{folder} holds something else than an environment; give a new folder"
    return None


def make(version: str, folder: Path) -> None:
    """Create the environment; raises CalledProcessError where pip fails."""
    venv.create(folder, with_pip=True, clear=True)

    def install(*what: str) -> None:
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-compile", *what]
        subprocess.run(pip, check=True, stderr=subprocess.PIPE, text=True)

    install("--upgrade", "pip")
    install(TORCH)
    install("--no-deps", f"vllm=={version}")
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    (vllm,) = metadata.distributions(name="vllm", path=[str(packages)])
    lines = requirements(vllm.requires or [])
    install(TORCH, *_OURS, *lines, "transformers<5")
    install("--no-build-isolation", "--no-deps", "-e", str(ROOT))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.older_vllm`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("version", help="of vLLM, as pip knows it")
    parser.add_argument("folder", type=Path, nargs="?")
    args = parser.parse_args(argv)
    folder = (args.folder or default_folder(args.version)).resolve()
    if text := refusal(args.version, folder):
        print(f"older_vllm: {text}", file=sys.stderr)
        return 2
    try:
        make(args.version, folder)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "no output").strip().splitlines()[-1]
        print(f"older_vllm: pip ended with code {error.returncode}: {last}", file=sys.stderr)
        return 2
    print(f"{folder}: vLLM {args.version} beside {TORCH}; PATH={folder / 'bin'}:$PATH")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
