"""The vLLM plug-in: an entry point in `vllm.platform_plugins`, inert unless the process runs under Revati."""

from __future__ import annotations

import os


def register_platform() -> str | None:
    """Class path of the virtual platform inside a run, None everywhere else (vLLM then chooses as ever)."""
    if os.environ.get("REVATI_IDENTITY") != "cuda":
        return None
    from revati.cuda import declared, libraries, triton
    from revati.engines.vllm import (  # noqa: F401 - the twins
        fakes,
        host_answers,
        parallel,
        speculation,
        versions,
    )

    versions.check()
    if versions.is_older():
        declared.LIBRARIES.update(versions.LIBRARIES)
    from revati import _C

    triton.HOST_KERNELS.update(_C.vllm_host_kernels())
    parallel.install()
    for register in (fakes.register, host_answers.register):
        if register not in libraries.AFTER:
            libraries.AFTER.append(register)
            register()  # for libraries that are loaded already
    return "revati.engines.vllm.platform.VirtualCudaPlatform"
