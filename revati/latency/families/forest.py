"""Evaluates a trained XGBoost model without XGBoost: one call asks for one row, seldom for many.

XGBoost rebuilds its own layout of all trees at every call (1.3 ms for 600 trees and one row, xgboost 3.2),
which is fine for thousands of rows and too slow for one. Here the trees lie in flat arrays, padded to one
depth: a leaf points at itself, so that `depth` rounds of four array operations bring every tree of every row
to its leaf. Results equal XGBoost's to the order of float32 sums (tests/latency/test_forest.py).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCALARS = {"i": ">b", "U": ">B", "I": ">h", "l": ">i", "L": ">q", "d": ">f", "D": ">d"}
_ARRAYS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}


class UbjReader:
    """Universal Binary JSON (ubjson.org, draft 12): the subset that XGBoost writes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def read(self) -> Any:
        """The value at the cursor. Raises ValueError for what is no UBJ, or is cut off."""
        try:
            return self._value(self._marker())
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"broken UBJ at byte {self.at} ({error})") from None

    def _marker(self) -> str:
        self.at += 1
        return chr(self.data[self.at - 1])

    def _scalar(self, marker: str) -> Any:
        form = _SCALARS.get(marker)
        if form is None:
            raise ValueError(f"unknown UBJ marker {marker!r} at byte {self.at}")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        size = self._scalar(self._marker())
        self.at += size
        if size < 0 or self.at > len(self.data):
            raise ValueError("UBJ ends inside a string")
        return self.data[self.at - size : self.at].decode()

    def _value(self, marker: str) -> Any:
        if marker == "{":
            out: dict[str, Any] = {}
            while chr(self.data[self.at]) != "}":
                key = self._string()
                out[key] = self._value(self._marker())
            self.at += 1
            return out
        if marker == "[":
            return self._array()
        if marker == "S":
            return self._string()
        if marker in "TFZ":
            return {"T": True, "F": False, "Z": None}[marker]
        return self._scalar(marker)

    def _array(self) -> Any:
        kind = None
        if chr(self.data[self.at]) == "$":
            kind = chr(self.data[self.at + 1])
            self.at += 2
        if chr(self.data[self.at]) == "#":
            self.at += 1
            count = self._scalar(self._marker())
            if kind is None:
                return [self._value(self._marker()) for _ in range(count)]
            dtype = np.dtype(_ARRAYS[kind]) if kind in _ARRAYS else None
            if dtype is None or count < 0 or self.at + count * dtype.itemsize > len(self.data):
                raise ValueError(f"UBJ ends inside an array of {count} at byte {self.at}")
            values = np.frombuffer(self.data, dtype, count, self.at)
            self.at += count * dtype.itemsize
            return values
        out = []
        while chr(self.data[self.at]) != "]":
            out.append(self._value(self._marker()))
        self.at += 1
        return out


class Forest:
    """Regression trees of one XGBoost model ("reg:squarederror", numeric splits only)."""

    def __init__(self, ubj: bytes) -> None:
        """Raises ValueError for bytes that hold no such model."""
        model = UbjReader(ubj).read()
        try:
            learner = model["learner"]
            trees = learner["gradient_booster"]["model"]["trees"]
            self.features = int(learner["learner_model_param"]["num_feature"])
            base = learner["learner_model_param"]["base_score"].strip("[]")
            self._pack(trees)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no XGBoost model of regression trees ({error!r})") from None
        self.base = np.float32(base)

    def _pack(self, trees: list[dict[str, Any]]) -> None:
        sizes = [len(tree["left_children"]) for tree in trees]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        left, right, feature, value = [], [], [], []
        for root, size, tree in zip(roots, sizes, trees, strict=True):
            own = np.arange(size, dtype=np.int64) + root
            children = np.asarray(tree["left_children"], dtype=np.int64)
            leaf = children < 0
            left.append(np.where(leaf, own, children + root))
            right.append(np.where(leaf, own, np.asarray(tree["right_children"], dtype=np.int64) + root))
            feature.append(np.where(leaf, 0, np.asarray(tree["split_indices"], dtype=np.int64)))
            value.append(np.asarray(tree["split_conditions"], dtype=np.float32))
        self._roots = roots
        self._feature = np.concatenate(feature)
        self._value = np.concatenate(value)  # a node's threshold; a leaf's weight
        self._children = np.stack([np.concatenate(right), np.concatenate(left)], axis=1).reshape(-1)
        self._depth = self._deepest(np.concatenate(left), np.concatenate(right))

    def _deepest(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
        level, depth = self._roots, 0
        while True:
            inner = level[left[level] != level]
            if not len(inner):
                return depth
            level = np.concatenate([left[inner], right[inner]])
            depth += 1

    def predict(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Model output for feature rows [rows, features]."""
        rows = matrix.astype(np.float32)
        out = np.empty(len(rows), dtype=np.float32)
        feature, value, children = self._feature, self._value, self._children
        for i, row in enumerate(rows):
            node = self._roots
            for _ in range(self._depth):
                goes_left = row.take(feature.take(node)) < value.take(node)
                node = children.take(2 * node + goes_left)
            out[i] = self.base + value.take(node).sum(dtype=np.float64)
        return out
