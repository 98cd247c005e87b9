"""Rows that may be asked: checked as the service checks requests, and the faults of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from bandit_serve.api.decisions import MAX_ITEMS, NamedFeatures, NumberedFeatures, ScoreRequest
from bandit_serve.api.inference import ITEM, USER
from bandit_serve.base._names import first_refused
from bandit_serve.base.extras import require
from bandit_serve.base.names import OUTSIDE
from bandit_serve.base.validation import field_error
from bandit_serve.errors import InvalidInput
from bandit_serve.export.tables import EXTRA
from bandit_serve.scoring.question import EXCLUDE, FEATURES, BatchQuestion
from bandit_serve.scoring.row_files import Chunk
from bandit_serve.scoring.text_cells import Reader, json_value, number, text_or_list, typed_columns
from bandit_serve.serving.request_form import request_features

Given = dict[str, Any] | list[float] | None
T = TypeVar("T")


class RowFault(Struct, frozen=True):
    """Row that was not scored: its file, its line (in Parquet its row), and what was expected."""

    file: str
    line: int
    detail: str


class AskedRows(NamedTuple):
    """Rows of a file to score: by column n values each, or None where there is no such column."""

    file: str
    lines: Sequence[int]
    users: list[str] | None
    items: list[str] | None
    excluded: list[list[str]] | None
    features: list[Given] | None

    def requests(self) -> Iterator[ScoreRequest]:
        """Request of each row's pair."""
        nothing = [None] * len(self.lines)
        for user, item, features in zip(
            self.users or nothing, self.items or nothing, self.features or nothing, strict=True
        ):
            yield ScoreRequest(user, item, features=features)

    def named_features(self) -> list[Any]:
        """Features of each row by name, as a family takes them."""
        return [request_features(ScoreRequest(features=each)) for each in self.features or ()]


def asked_rows(
    chunk: Chunk,
    question: BatchQuestion,
    *,
    needs_names: bool,
    takes_features: bool = True,
    texts: Collection[str] = (),
) -> tuple[AskedRows, list[RowFault]]:
    """Rows of a chunk that may be asked, and the faults of the others, by line.

    needs_names: a row without its user, or its item, is at fault. takes_features: without it, one with features is.
    texts: features that are not numbers to the model, whose cells stay texts where the file has no types.
    Raises `InvalidInput` where a column has a type that no row can have.
    """
    readers: dict[str, Reader] = {EXCLUDE: json_value, FEATURES: json_value}
    readers |= {name: text_or_list if name in texts else number for name in question.features}
    (columns, faults), n = typed_columns(chunk, readers), len(chunk.lines)
    users = _names(columns, USER, n, faults, needed=needs_names)
    items = _names(columns, ITEM, n, faults, needed=needs_names) if question.of_pairs else None
    excluded = _name_lists(columns, EXCLUDE, faults) if question.k is not None else None
    features = _features(columns, question.features, n, faults)
    if features is not None and not takes_features:
        refused = [i for i, each in enumerate(features) if each is not None]
        faults |= {i: "features: the model's family takes none" for i in refused if i not in faults}
        features = None
    found = [RowFault(chunk.file, line, detail) for line, detail in chunk.faults]
    lines = chunk.lines
    if faults:
        found += [RowFault(chunk.file, lines[i], detail) for i, detail in faults.items()]
        kept = [i for i in range(n) if i not in faults]
        lines = [lines[i] for i in kept]
        users, items = _at(users, kept), _at(items, kept)
        excluded, features = _at(excluded, kept), _at(features, kept)
    found.sort(key=lambda fault: fault.line)
    return AskedRows(chunk.file, lines, users, items, excluded, features), found


def _at(column: list[T] | None, places: Sequence[int]) -> list[T] | None:
    return None if column is None else [column[i] for i in places]


def cells(column: Any) -> list[Any]:
    """Cells of a list or an Arrow array."""
    if isinstance(column, list):
        return column
    # With the argument every cell takes six times as long.
    nested = require("pyarrow", EXTRA).types.is_nested(column.type)
    listed: list[Any] = column.to_pylist(**({"maps_as_pydicts": "lossy"} if nested else {}))
    return listed


def _names(
    columns: dict[str, Any], at: str, n: int, faults: dict[int, str], *, needed: bool
) -> list[Any] | None:
    """Names (n,) of a column. Where they are not `needed`, None for a null, and instead of a missing column."""
    column = columns.get(at)
    if column is None and not needed:
        return None
    names: list[Any] = [None] * n if column is None else _texts(column, at)
    try:
        if first_refused(names) < 0:
            return names
    except TypeError:
        pass
    for i, name in enumerate(names):
        if type(name) is int:
            names[i] = name = str(name)
        if name is None and not needed:
            continue
        if type(name) is not str or first_refused([name]) >= 0:
            faults.setdefault(
                i, f"{at}: {OUTSIDE}, or a whole number" if name is not None else f"{at} is missing"
            )
    return names


def _texts(column: Any, at: str) -> list[Any]:
    """Texts of a column, whose whole numbers are their decimal texts."""
    if isinstance(column, list):
        return list(column)
    pa = require("pyarrow", EXTRA)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InvalidInput(f"The column {at} has the type {kind}; expected texts or whole numbers.")
    return cells(column.cast(pa.string()))


def _name_lists(columns: dict[str, Any], at: str, faults: dict[int, str]) -> list[list[str]] | None:
    column = columns.get(at)
    if column is None:
        return None
    lists = cells(column)
    for i, given in enumerate(lists):
        if given is None:
            lists[i] = []
            continue
        if not isinstance(given, list) or len(given) > MAX_ITEMS:
            faults.setdefault(i, f"{at}: expected a list of at most {MAX_ITEMS} items")
            continue
        lists[i] = [str(name) if type(name) is int else name for name in given]
        if not all(type(name) is str for name in lists[i]) or first_refused(lists[i]) >= 0:
            faults.setdefault(i, f"{at}: of each item, {OUTSIDE}")
    return lists


def _features(
    columns: dict[str, Any], names: Sequence[str], n: int, faults: dict[int, str]
) -> list[Given] | None:
    """Features (n,) of the rows: the column `features`, and those of `names`, without what is null."""
    whole = columns.get(FEATURES)
    if whole is None and not names:
        return None
    listed = {name: cells(columns[name]) for name in names if name in columns}
    given: list[Given] = [None] * n if whole is None else cells(whole)
    if not names and not any(each is not None for each in given):
        return None
    read: list[Given] = []
    for i, each in enumerate(given):
        own = {name: column[i] for name, column in listed.items() if column[i] is not None}
        if own and each is not None and not isinstance(each, dict):
            faults.setdefault(i, "features: expected an object, beside columns with features")
        elif own:
            each = {**each, **own} if isinstance(each, dict) else own
        if isinstance(each, dict):
            each = {name: value for name, value in each.items() if value is not None}
        try:
            read.append(msgspec.convert(each, NamedFeatures | NumberedFeatures | None))
        except msgspec.ValidationError as error:
            wrong = field_error(error, FEATURES)
            faults.setdefault(i, f"{wrong.at}: {wrong.detail}")
            read.append(None)
    return read
