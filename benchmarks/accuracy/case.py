"""The format of a measured case (YAML), and where its workload data lies.

A file describes one measurement series: GPU, model, engine flags, workload and load points with what was
measured at each. Raw data of third parties stays out of the repository; a case that needs it names a folder
below the data directory (`--data DIR` or $REVATI_GROUND_TRUTH).

A file may be `like: ANOTHER`, the id of a file beside it: what it leaves out is taken from there (of
`workload` field by field, never the points), and its `more_flags` come after the other's flags.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CASES_DIR = Path(__file__).resolve().parent / "cases"
DATA_ENV = "REVATI_GROUND_TRUTH"
LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms")
STATISTICS = ("mean", "p50", "p95", "p99")


class CaseError(ValueError):
    """A case file that cannot be used; the message names the file and the field."""


class Strict(BaseModel):
    """Base of all parts: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Statistics(Strict):
    """Statistics of one latency in milliseconds; None: not published."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Measured(Strict):
    """What the real run gave."""

    ttft_ms: Statistics = Statistics()
    tpot_ms: Statistics = Statistics()
    itl_ms: Statistics = Statistics()
    e2el_ms: Statistics = Statistics()
    duration_s: float | None = None
    output_tokens_per_s: float | None = None


class Workload(Strict):
    """How the load is made. Lengths are in tokens."""

    kind: Literal["sharegpt_like", "random", "recorded"]
    prompts: int | None = Field(None, gt=0)
    prompts_per_concurrency: int | None = Field(None, gt=0)
    min_prompts: int = Field(0, ge=0, description="at least so many where they follow the concurrency")
    total_prompt_tokens: int | None = None
    total_output_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    range_ratio: float | dict[Literal["input", "output"], float] = 0.0
    seed: int = 0
    repeats: int = Field(1, gt=0, description="with the seeds that follow; medians count (one_server)")
    folder: str | None = Field(None, description="recorded: folder below the data directory")

    @model_validator(mode="after")
    def _complete(self) -> Workload:
        needed = {
            "sharegpt_like": ("prompts",),
            "random": ("input_tokens", "output_tokens"),
            "recorded": ("folder",),
        }[self.kind]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"workload of kind {self.kind} needs {', '.join(missing)}")
        return self


class Goal(Strict):
    """Largest error that counts as a pass, in percent, by metric (`tpot_ms.mean`, `duration_s`)."""

    percent: dict[str, float] = {}


class Point(Strict):
    """One load point of a series."""

    id: str
    concurrency: int | None = Field(None, gt=0)
    flags: list[str] = []
    measured: Measured


class Series(Strict):
    """One case file."""

    id: str
    gpu: str
    gpus: int = Field(1, gt=0)
    model: str
    measured_engine: str
    source: str
    licence: str | None = None
    client: Literal["http", "in_process"]
    flags: list[str] = Field([], description="of `vllm serve` and `vllm bench serve` (http)")
    engine_args: dict[str, Any] = Field({}, description="of AsyncEngineArgs (in_process)")
    pinned: dict[str, Any] = Field({}, description="engine_args that copy what the real engine had resolved")
    workload: Workload
    one_server: bool = Field(
        False, description="all points in one server's life, in order: what it has cached counts (http)"
    )
    goal: Goal = Goal()
    published_errors: list[str] = []
    notes: list[str] = []
    points: list[Point] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_point_once(self) -> Series:
        ids = [point.id for point in self.points]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"points must have ids of their own; twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _repeats_share_a_server(self) -> Series:
        if self.workload.repeats > 1 and not self.one_server:
            raise ValueError("workload.repeats needs one_server: true")
        return self


class Case(Strict):
    """One runnable case: a series at one of its load points."""

    series: Series
    point: Point

    @property
    def id(self) -> str:
        """Series and point in one word; a series with one point goes by its own name."""
        return self.series.id if len(self.series.points) == 1 else f"{self.series.id}-{self.point.id}"


def load_series(path: Path) -> Series:
    """Read one case file."""
    own = _mapping(path)
    like = own.pop("like", None)
    try:
        return Series.model_validate(own if like is None else _merged(path, own, like))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise CaseError(f"{path}: {place}: {first['msg']}") from None


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise CaseError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise CaseError(f"{path}: a case file is a mapping of fields")
    return content


def _merged(path: Path, own: dict[str, Any], like: Any) -> dict[str, Any]:
    other_path = path.parent / f"{like}.yaml"
    if not other_path.is_file():
        raise CaseError(f"{path}: like: there is no case file {other_path.name} beside it")
    other = _mapping(other_path)
    if "like" in other:
        raise CaseError(f"{path}: like: {like} is itself like {other['like']}; name that one")
    merged = {**other, **own, "points": own.get("points", [])}
    merged["flags"] = [*merged.get("flags", []), *merged.pop("more_flags", [])]
    if isinstance(own.get("workload"), dict):
        merged["workload"] = {**other.get("workload", {}), **own["workload"]}
    return merged


def load_cases(folder: Path = CASES_DIR) -> list[Case]:
    """All cases, series by series in the order of their points."""
    series = [load_series(path) for path in sorted(folder.glob("*.yaml"))]
    return [Case(series=one, point=point) for one in series for point in one.points]


def select(cases: list[Case], wanted: list[str]) -> list[Case]:
    """The cases named: by id, or by series id for all its points; all of them if none is named."""
    if not wanted:
        return cases
    known = {case.id for case in cases} | {case.series.id for case in cases}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise CaseError(f"unknown case {unknown[0]!r}; known: {', '.join(case.id for case in cases)}")
    return [case for case in cases if case.id in wanted or case.series.id in wanted]
