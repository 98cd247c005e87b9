"""Ids on their way in (training columns to rows) and in artifacts (text and offsets)."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models._ids import IdTable
from bandit_serve.models.artifact import Artifact


def index_ids(ids: ArrayLike, what: str) -> tuple[IdTable, NDArray[np.int64]]:
    """Table of the distinct ids and the row of each.

    `ids`: n str or int, an array or a sequence. Raises `InvalidInput` for other types and for an id that is
    not 1 to 256 bytes of UTF-8 without control characters.
    """
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.ndim == 1:
        values, codes = np.unique(ids, return_inverse=True)
        names = [str(value) for value in values.tolist()]
        table = IdTable.of(names)
        return table, table.rows(names)[codes]
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise InvalidInput(f"The {what} must be a vector, not {ids.ndim}-dimensional.")
        ids = ids.tolist()
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidInput(f"The {what} must be a sequence of str or int.")
    distinct: dict[object, int] = {}
    codes = np.asarray([distinct.setdefault(_hashable(one, what), len(distinct)) for one in ids], np.int64)
    names = [_name(one, what) for one in distinct]
    table = IdTable.of(names)
    return table, table.rows(names)[codes] if names else codes


def id_tensors(table: IdTable, prefix: str) -> dict[str, NDArray[np.uint8] | NDArray[np.int64]]:
    return {f"{prefix}_id_text": table.text, f"{prefix}_id_offsets": table.offsets}


def read_ids(artifact: Artifact, prefix: str) -> IdTable:
    """Table that `id_tensors` wrote, on the mapped tensors. Raises `InvalidArtifact`."""
    text = artifact.tensor(f"{prefix}_id_text", "U8", [None])
    offsets = artifact.tensor(f"{prefix}_id_offsets", "I64", [None])
    try:
        return IdTable(text, offsets)
    except InvalidInput as error:
        raise InvalidArtifact(f"The artifact's {prefix} ids are wrong: {error}") from None


def _hashable(one: object, what: str) -> object:
    # True == 1 == 1.0 as keys, so the type is looked at before the dictionary can merge them.
    if type(one) is str or type(one) is int:
        return one
    return _name(one, what)


def _name(one: object, what: str) -> str:
    if isinstance(one, str):
        return str(one)
    if not isinstance(one, bool | np.bool_):
        try:
            return str(operator.index(one))  # type: ignore[arg-type]
        except TypeError:
            pass
    raise InvalidInput(f"The {what} must be str or int, not {type(one).__name__}.")
