"""Datatypes of Open Inference v2, by NumPy's names and by the types of Python's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bandit_serve.api.inference import Datatype

NUMPY: Mapping[Datatype, str] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BYTES": "str",
}  # fmt: skip
"""NumPy's names."""
BY_NUMPY: Mapping[str, Datatype] = {
    **{dtype: datatype for datatype, dtype in NUMPY.items()},
    "mapping": "BYTES",
}
"""Datatypes by NumPy's names; a `mapping` is an object of JSON."""
BY_TYPE: Mapping[type, Datatype] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}
"""Datatypes in which values are answered where none is declared. One of whole and of other numbers is FP64."""
_BY_NUMPY = {datatype: np.dtype(name) for datatype, name in NUMPY.items() if datatype != "BYTES"}
# Of BF16, which NumPy does not have, as well.
LARGEST: Mapping[str, float] = {
    "BF16": 3.3895313892515355e38,
    **{datatype: float(np.finfo(dtype).max) for datatype, dtype in _BY_NUMPY.items() if dtype.kind == "f"},
}
"""Largest number of each datatype of real numbers."""
WHOLE: Mapping[str, tuple[int, int]] = {
    datatype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for datatype, dtype in _BY_NUMPY.items()
    if dtype.kind in "iu"
}
"""Lowest and highest number of each datatype of whole numbers."""
_NUMBERS: frozenset[type] = frozenset({int, float})
_NONE: frozenset[type] = frozenset()
_PLAIN: dict[str, frozenset[type]] = {"BOOL": frozenset({bool}), "BYTES": frozenset({str})}


def wire_dtype(datatype: Datatype) -> np.dtype[np.generic]:
    """NumPy's dtype of a datatype's values in binary, but for BYTES."""
    return np.dtype(NUMPY[datatype]).newbyteorder("<")


def in_common(datatype: Datatype) -> Datatype:
    """Datatype in which an arm answers what its version declares in `datatype`: numbers are FP64, whole ones INT64."""
    return "FP64" if datatype in LARGEST else "INT64" if datatype in WHOLE else datatype


def held(values: list[Any], datatype: str) -> list[Any] | None:
    """`values` as a tensor of `datatype` holds them, whole numbers as int; None where it does not hold them all."""
    types = set(map(type, values))
    if types <= _NUMBERS and all(map(math.isfinite, values)):
        if datatype in LARGEST and max(map(abs, values), default=0.0) <= LARGEST[datatype]:
            return values
        if datatype in WHOLE:
            low, high = WHOLE[datatype]
            whole = list(map(int, values))
            if whole == values and all(low <= value <= high for value in whole):
                return whole
    return values if types <= _PLAIN.get(datatype, _NONE) else None
