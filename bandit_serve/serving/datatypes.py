"""Datatypes of Open Inference v2, by NumPy's names and by the types of Python's values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bandit_serve.api.inference import Datatype

NUMPY: Mapping[Datatype, str] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BYTES": "str",
}  # fmt: skip
"""NumPy's names."""
BY_NUMPY: Mapping[str, Datatype] = {dtype: datatype for datatype, dtype in NUMPY.items()}
BY_TYPE: Mapping[type, Datatype] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}
"""Datatypes in which values are answered. One of whole and of other numbers is FP64."""


def wire_dtype(datatype: Datatype) -> np.dtype[np.generic]:
    """NumPy's dtype of a datatype's values in binary, but for BYTES."""
    return np.dtype(NUMPY[datatype]).newbyteorder("<")


def answered(dtype: str) -> Datatype:
    """Datatype in which values of NumPy's `dtype` are answered; a `mapping` is an object of JSON."""
    if dtype == "bool":
        return "BOOL"
    if dtype in ("str", "mapping"):
        return "BYTES"
    return "FP64" if dtype.startswith("float") else "INT64"
