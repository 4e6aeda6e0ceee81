"""One set of feature formulas, two kinds of numbers: arrays for training, plain floats for one query.

Numpy spends about 1 us on each operation over an array of one element, and features are a hundred
operations; `math` spends 0.05 us. Formulas take `xp`, which is `ARRAYS` or `SCALARS`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

TINY = 1e-9
"""Logarithms of sizes that may be zero start here."""


class ArrayMath:
    """The operations over numpy arrays of one length."""

    ceil = staticmethod(np.ceil)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    where = staticmethod(np.where)

    @staticmethod
    def log2(x: Any) -> Any:
        """log2(x), of at least `TINY`."""
        return np.log2(np.maximum(x, TINY))

    @staticmethod
    def flag(condition: Any) -> Any:
        """1.0 where `condition`, else 0.0."""
        return condition.astype(float)

    @staticmethod
    def matrix(columns: list[Any]) -> NDArray[np.float64]:
        """[rows, features]."""
        return np.column_stack(columns)


class ScalarMath:
    """The operations over floats; `matrix` has one row."""

    ceil = staticmethod(math.ceil)
    maximum = staticmethod(max)
    minimum = staticmethod(min)

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        """`yes` if `condition`, else `no`."""
        return yes if condition else no

    @staticmethod
    def log2(x: float) -> float:
        """log2(x), of at least `TINY`."""
        return math.log2(x if x > TINY else TINY)

    @staticmethod
    def flag(condition: bool) -> float:
        """1.0 if `condition`, else 0.0."""
        return 1.0 if condition else 0.0

    @staticmethod
    def matrix(columns: list[float]) -> NDArray[np.float64]:
        """[1, features]."""
        return np.array([columns], dtype=np.float64)


ARRAYS, SCALARS = ArrayMath(), ScalarMath()
Xp = Any  # ArrayMath or ScalarMath: one code for both, which a type checker cannot follow
