"""GPU specs: what a card is, before any measurement of what it does.

One file per GPU, `profiles/<gpu>/spec.yaml`, read by everything that needs a number about the hardware: the
virtual device (name, memory, properties), the roofline (peak rates) and the timeline (launch costs).
A spec holds published or measured constants only, each group with its source; it never holds a latency model.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

PROFILES_ENV = "REVATI_PROFILES"
SPEC_FILE = "spec.yaml"


class SpecError(ValueError):
    """A spec file that is missing a field, has one of the wrong type, or one out of range."""


class UnknownGpuError(ValueError):
    """A GPU id for which no profile is installed; the message lists the known ones."""


class PeakFlops(BaseModel):
    """Dense peak rates, operations per second (no structured sparsity); None: the card has no such unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fp64: float | None = Field(None, gt=0)
    fp32: float = Field(gt=0)
    tf32: float | None = Field(None, gt=0)
    fp16: float = Field(gt=0)
    bf16: float = Field(gt=0)
    fp8: float | None = Field(None, gt=0)
    int8: float | None = Field(None, gt=0)
    fp4: float | None = Field(None, gt=0)

    def rate(self, kind: str) -> float:
        """Operations per second for `kind` ("bf16", "fp8", ...).

        A card without the unit runs the op at the next wider type it has (fp4 -> fp8 -> bf16), as weight-only
        kernels do. Raises KeyError for a name that is no field.
        """
        if kind not in type(self).model_fields:
            raise KeyError(kind)
        wider = {"fp4": "fp8", "fp8": "bf16", "int8": "bf16", "tf32": "fp32"}
        value: float | None = getattr(self, kind)
        if value is None:
            value = self.rate(wider[kind]) if kind in wider else self.fp32 / 64
        return value


class OutsideTorch(BaseModel):
    """Device memory that a process uses without PyTorch's allocator; bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context_bytes: int = Field(ge=0, description="CUDA context and loaded kernels")
    cublas_workspace_bytes: int = Field(ge=0, description="what the first matmuls add")
    nccl_bytes_per_rank: int = Field(ge=0, description="of one communicator")
    graph_bytes_per_graph: int = Field(ge=0, description="driver memory of one captured CUDA graph")
    graph_bytes_per_node: int = Field(
        20480, ge=0, description="driver memory of one kernel node of a graph; estimate: vLLM logs 0.2 to "
        "0.5 GiB for 35 to 67 captured sizes of an 8B model, 300 to 400 kernels each"
    )
    source: str


class SymmetricMemory(BaseModel):
    """Cost of one all-reduce kernel over symmetric memory (copies in and out are kernels of their own)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_ns: float = Field(ge=0, lt=1e6)
    bytes_per_s: float = Field(gt=1e9, lt=1e13, description="bytes of the reduced vector")


class GpuSpec(BaseModel):
    """One GPU model. Rates are peaks per second; times are nanoseconds; sizes are bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9_]+$", description="id used everywhere: `h100_sxm`")
    name: str = Field(min_length=3, description="as the driver reports it")
    architecture: str
    compute_capability: tuple[int, int]
    sm_count: int = Field(gt=0, le=1024)
    memory_bytes: int = Field(gt=2**30, lt=2**42, description="total, as cudaMemGetInfo reports it")
    outside_torch: OutsideTorch
    hbm_bytes_per_s: float = Field(gt=1e10, lt=1e14)
    l2_bytes: int = Field(gt=0, lt=2**30)
    l2_bytes_per_s: float = Field(gt=1e10, lt=1e15)
    peak_flops: PeakFlops
    sustained_flops: dict[str, float] = Field(
        default_factory=dict,
        description="what large matrix products keep up at the power limit, by element kind; others keep "
        "the rate of their table",
    )
    stand_ins: dict[Literal["moe"], str] = Field(
        default_factory=dict,
        description="for families without measurements on this card: another card, whose measured time over "
        "its roofline is taken for this one's; the roofline stays where that card is not installed",
    )
    nvlink_bytes_per_s: float = Field(ge=0, lt=1e13, description="one direction, one GPU; 0: no NVLink")
    symm_mem_all_reduce: dict[int, SymmetricMemory] = Field(
        default_factory=dict, description="by number of ranks; where empty, NCCL's table stands in"
    )
    pcie_bytes_per_s: float = Field(gt=1e9, lt=1e12, description="one direction, host to device, achieved")
    sm_clock_hz: float = Field(gt=1e8, lt=1e10, description="boost clock")
    memory_clock_hz: float = Field(gt=1e8, lt=1e11)
    memory_bus_bits: int = Field(gt=0)
    warp_size: int = 32
    max_threads_per_sm: int = Field(gt=0)
    max_threads_per_block: int = 1024
    shared_memory_per_block_bytes: int = 49152
    shared_memory_per_block_optin_bytes: int = Field(gt=0)
    shared_memory_per_sm_bytes: int = Field(gt=0)
    regs_per_sm: int = 65536
    kernel_launch_ns: float = Field(gt=0, lt=1e6, description="host cost of one eager launch")
    graph_launch_ns: float = Field(gt=0, lt=1e6, description="host cost of one cudaGraphLaunch")
    graph_kernel_gap_ns: float = Field(ge=0, lt=1e5, description="idle time between two kernels of one graph")
    compiled_call_ns: float = Field(
        25_000, ge=0, lt=1e6, description="host cost of calling one compiled graph outside of CUDA graphs, "
        "its launches not counted: checks of its inputs and allocation of its buffers; an estimate"
    )
    driver_version: str
    sources: tuple[str, ...] = Field(min_length=1)

    @field_validator("sustained_flops")
    @classmethod
    def _known_kinds(cls, value: dict[str, float]) -> dict[str, float]:
        for kind, rate in value.items():
            if kind not in PeakFlops.model_fields or rate <= 0:
                expected = ", ".join(PeakFlops.model_fields)
                raise ValueError(f"{kind}: {rate}, expected a positive rate of one of {expected}")
        return value

    @field_validator("compute_capability")
    @classmethod
    def _plausible_capability(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not (5 <= value[0] <= 20 and 0 <= value[1] <= 9):
            raise ValueError(f"compute capability {value[0]}.{value[1]}, expected 5.0 to 20.9")
        return value


def profiles_dir() -> Path:
    """Folder with one folder per GPU: $REVATI_PROFILES, else the installed one, else the repository's."""
    override = os.environ.get(PROFILES_ENV)
    if override:
        path = Path(override)
        if not path.is_dir():
            raise SpecError(f"{PROFILES_ENV}={override}: not a folder; it must hold <gpu>/{SPEC_FILE} files")
        return path
    here = Path(__file__).resolve().parent
    for candidate in (here / "profiles", here.parent / "profiles"):
        if candidate.is_dir():
            return candidate
    raise SpecError(f"no profiles folder beside {here}; set {PROFILES_ENV} to one")


def list_gpus() -> tuple[str, ...]:
    """Ids of the GPUs whose spec is installed, sorted."""
    return tuple(sorted(p.parent.name for p in profiles_dir().glob(f"*/{SPEC_FILE}")))


def load_spec(gpu: str) -> GpuSpec:
    """The spec of `gpu` (an id such as "h100_sxm").

    Raises UnknownGpuError when no such profile is installed, SpecError when its file is broken. Cached.
    """
    path = profiles_dir() / gpu / SPEC_FILE
    if not gpu or "/" in gpu or gpu.startswith(".") or not path.is_file():
        raise UnknownGpuError(f"unknown GPU {gpu!r}; known: {', '.join(list_gpus()) or 'none'}")
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _load(path: Path, _mtime_ns: int) -> GpuSpec:
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: expected a mapping of spec fields, found {type(raw).__name__}")
    try:
        spec = GpuSpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{path}: {where}: {first['msg']} (found {first.get('input')!r:.60})") from None
    if spec.id != path.parent.name:
        raise SpecError(f"{path}: id is {spec.id!r}, but the folder is {path.parent.name!r}; they must agree")
    return spec
