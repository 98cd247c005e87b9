"""Columns of a table that hold the user, the item, the rating and the time."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from bandit_serve.errors import InvalidInput
from bandit_serve.training.tables import Table


class RatingColumns(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the columns of ratings, or their places, "1" and on, in a text without names.

    `time` is in seconds or ISO 8601, and need not be there; `features` are of the request.
    """

    user: str = "userId"
    item: str = "movieId"
    rating: str = "rating"
    time: str | None = "timestamp"
    features: tuple[str, ...] = ()


class Places(NamedTuple):
    """Indices of the columns, from 0; `named` if the first line of a text has their names."""

    user: int
    item: int
    rating: int
    time: int | None
    features: tuple[int, ...]
    named: bool

    @property
    def all(self) -> list[int]:
        timed = [] if self.time is None else [self.time]
        return [self.user, self.item, self.rating, *timed, *self.features]


def find_columns(table: Table, columns: RatingColumns | None) -> Places:
    """Places of `columns` in a table.

    Without `columns` they are MovieLens' names, or else, in a text whose third field is a number, user, item, rating
    and, where there is a fourth, time. `InvalidInput` for a column that is not there.
    """
    names = [name.strip() for name in table.head]
    named = True
    if columns is None:
        columns = RatingColumns()
        named = table.named or not (len(names) >= 3 and _is_number(names[2]))
        if not named:
            columns = RatingColumns("1", "2", "3", "4")
    elif not table.named and not {columns.user, columns.item, columns.rating} & set(names):
        named = not (columns.user.isdecimal() and columns.item.isdecimal() and columns.rating.isdecimal())
    if not named:
        names = [str(place) for place in range(1, len(names) + 1)]
    for name in (columns.user, columns.item, columns.rating, *columns.features):
        if name not in names:
            has = ", ".join(map(repr, names)) or "none"
            raise InvalidInput(
                f"{table.name} has no column {name!r}; it has {has}. Say which are the user's, the item's and "
                "the rating's, such as --columns user=who,item=what,rating=stars."
            )
    return Places(
        names.index(columns.user),
        names.index(columns.item),
        names.index(columns.rating),
        names.index(columns.time) if columns.time in names else None,
        tuple(map(names.index, columns.features)),
        named and not table.named,
    )


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True
