"""The one entry point of this package: a record goes in, a time on the device comes out.

The device calls `predict` on a cache miss only and from one thread at a time. Nothing here reads a clock or
imports torch; xgboost is imported when a profile with trained models is first asked for one of them.
"""

from __future__ import annotations

import warnings

from revati.latency import ops, worklog
from revati.latency.bandwidth import DEFAULTS, bandwidth_ns, host_copy_ns
from revati.latency.record import OpRecord, Prediction
from revati.latency.roofline import KERNEL_FLOOR_NS, roofline_estimate_ns
from revati.latency.store import Profile, load_profile
from revati.latency.work import Work
from revati.spec import GpuSpec

MODES = ("profile", "roofline")
SHORTEST_KERNEL_NS = 800.0


class StrictError(RuntimeError):
    """In strict mode: an op that only the roofline could price."""


class Predictor:
    """Prices ops for one GPU.

    gpu: an id of `revati.spec.list_gpus`. mode: "profile" (trained models, bandwidth models, roofline for the
    rest) or "roofline". strict: a roofline fallback raises StrictError. Raises UnknownGpuError, ProfileError.
    """

    def __init__(self, gpu: str, *, mode: str = "profile", strict: bool = False) -> None:
        if mode not in MODES:
            raise ValueError(f"latency mode {mode!r}: expected one of {', '.join(MODES)}")
        self.gpu = gpu
        self.mode = mode
        self.strict = strict
        self.profile: Profile = load_profile(gpu)
        self.spec: GpuSpec = self.profile.spec
        self._broken: set[str] = set()
        self._log = worklog.from_environment()

    def live_args(self, name: str) -> tuple[str, ...]:
        """Argument names whose live values set the price of op `name`; () for most ops."""
        return ops.live_args(name)

    def unpriced_args(self, name: str) -> tuple[str, ...]:
        """Argument names of op `name` that differ from call to call and decide neither price nor result."""
        return ops.unpriced_args(name)

    def predict(self, record: OpRecord) -> Prediction:
        """Time on the device of one launched op.

        Never raises for an op it does not know (unless strict): that one is priced by the roofline, with
        confidence "roofline". A record whose arguments are not as expected is priced the same way, with one
        warning for each op name.
        """
        try:
            work, known = ops.extract(record)
        except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, OverflowError) as error:
            if record.name not in self._broken:
                self._broken.add(record.name)
                warnings.warn(f"{record.name}: unexpected arguments ({error}); priced by bytes", stacklevel=2)
            work, known = ops.memory.extract_unknown(ops.ArgView(record), "other"), False
        if self._log is not None:
            self._log.note(record, work)
        return self.predict_work(work, record.name, known=known)

    def predict_work(self, work: Work, name: str = "", *, known: bool = True) -> Prediction:
        """Time of `work`, as `predict` does after extraction."""
        if work.kernels <= 0 and work.bytes <= 0:
            return Prediction(0.0, work.family, "in_range")
        if self.mode == "roofline":
            return Prediction(roofline_estimate_ns(work, self.spec), work.family, "roofline")
        prediction = self._modelled(work) if known else None
        if prediction is None:
            if self.strict:
                raise StrictError(
                    f"{name or work.family}: no model of family {work.family!r} in profile {self.gpu}; "
                    f"collect it (`revati profile collect`) or run without strict mode"
                )
            return Prediction(roofline_estimate_ns(work, self.spec), work.family, "roofline")
        return prediction

    def _sustained_ns(self, work: Work) -> float:
        """Least time of a matrix product at the card's power limit.

        Tables are measured one product at a time, in short loops: a large product then runs at a clock that a
        card under load does not hold.
        """
        rate = self.spec.sustained_flops.get(work.flop_kind) if work.family == "gemm" else None
        return work.flops / rate * 1e9 if rate else 0.0

    def _modelled(self, work: Work) -> Prediction | None:
        family = work.family
        if family in ("copy_h2d", "copy_d2h"):
            return Prediction(host_copy_ns(work.read_bytes, self.spec), family, "edge")
        if work.shape is not None:
            estimate = self.profile.estimate(work)
            if estimate is None:
                return None
            ns, confidence = estimate
            ns = max(ns, self._sustained_ns(work))
            return Prediction(max(ns, SHORTEST_KERNEL_NS) if ns != 0 else 0.0, family, confidence)
        model = self.profile.bandwidth.get(family)
        if model is None:
            default = DEFAULTS.get(family)
            if default is None:
                return None
            return Prediction(bandwidth_ns(work, default, self.spec), family, "outside")
        confidence = "in_range" if work.bytes <= model.max_bytes else "edge"
        if model.source.startswith("transferred"):
            confidence = "edge" if confidence == "in_range" else "outside"
        return Prediction(bandwidth_ns(work, model, self.spec), family, confidence)


__all__ = ["KERNEL_FLOOR_NS", "MODES", "Predictor", "StrictError"]
