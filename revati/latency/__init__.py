"""Operator latency: how long does this op take on that GPU?

Knows nothing of clocks, engines or torch. `Predictor` is the entry point; docs/latency.md explains the
models.
"""

from revati.latency.predictor import Predictor, StrictError
from revati.latency.record import OpRecord, Prediction, TensorArg
from revati.latency.store import ProfileError

__all__ = ["OpRecord", "Prediction", "Predictor", "ProfileError", "StrictError", "TensorArg"]
