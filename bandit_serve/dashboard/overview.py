"""Overview: what needs somebody, how the service stands, experiments in rows, and models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from markupsafe import Markup
from msgspec import UNSET

from bandit_serve.api.views import ExperimentView
from bandit_serve.base.troubles import Trouble
from bandit_serve.dashboard.numbers import ShownNumbers
from bandit_serve.dashboard.surroundings import ModelLook, Surroundings
from bandit_serve.dashboard.templates import rendered
from bandit_serve.pictures.share_bar import share_bar
from bandit_serve.pictures.sparkline import Count, rate_of, sparkline

ROWS = 100
"""Experiments on a page of the list."""
MAX_WARNINGS = 12
MAX_MODELS = 12
MAX_KEPT_ROWS = 2_000
ORDER = {"running": 0, "paused": 1, "draft": 2, "stopped": 3}
STATUSES = ("warnings", *ORDER)
SENTENCE = re.compile(r"(?<=\.) (?=[A-Z])")
SORTS = ("attention", "name", "owner", "started", "decisions")


class ResultLook(NamedTuple):
    """What a list says of a result: its finding in a sentence, the state of the decision, and days until there is one.

    `counts`: decisions until some times.
    """

    finding: str
    state: str
    days_to_go: float | None
    srm: str
    counts: Sequence[Count]


class Warned(NamedTuple):
    """Thing that needs somebody: a word for it, and a sentence."""

    word: str
    sentence: str


@dataclass(eq=False)
class Listed:
    """Experiment in the list. `look` is at its result, None before there was one; `alarm` says which mean changed.

    What follows from that is worked out once.
    """

    view: ExperimentView
    shares: Mapping[str, float]
    exposures: Mapping[str, int]
    ejected: Sequence[str] = ()
    alarm: str = ""
    look: ResultLook | None = None

    @cached_property
    def decisions(self) -> int:
        return sum(self.exposures.values())

    @cached_property
    def searched(self) -> str:
        """Text in which a search looks."""
        tags = () if self.view.tags is UNSET else self.view.tags
        return " ".join([self.view.id, self.owner, *tags]).lower()

    @property
    def owner(self) -> str:
        return "" if self.view.owner is UNSET else self.view.owner

    @cached_property
    def warnings(self) -> list[Warned]:
        """What needs somebody, the worst first."""
        told, running = [], self.view.status == "running"
        if self.view.set_aside is not UNSET:
            told.append(Warned("set aside", self.view.set_aside.reason))
        if self.look is not None and self.look.state == "harm":
            told.append(Warned("harm", self.look.finding))
        if self.look is not None and self.look.srm == "mismatch":
            told.append(
                Warned("sample ratio", "The split is not as it was logged: do not trust the comparisons.")
            )
        if self.ejected:
            arms = ", ".join(self.ejected)
            told.append(Warned("arm left out", f"Left out in this worker, as its model fails: {arms}."))
        if self.alarm and running:
            told.append(Warned("mean changed", self.alarm))
        return told

    @property
    def is_even(self) -> bool:
        return max(self.shares.values()) - min(self.shares.values()) < 1e-9

    @property
    def leader(self) -> str:
        """Arm with the largest share, the first of those with the same."""
        return max(self.shares, key=lambda arm: self.shares[arm])


class WantedList(NamedTuple):
    """Part of the list that somebody wants to see: the text, the status, the order, and the page from 1."""

    q: str = ""
    status: str = ""
    sort: str = "attention"
    page: int = 1

    def query(self, **changes: str | int) -> dict[str, str | int]:
        """Query of the address of this list, with `changes`."""
        fields = {**self._asdict(), **changes}
        return {name: value for name, value in fields.items() if value != WantedList()._asdict()[name]}


class Overview:
    """Overview of one worker. Rows are kept as long as their experiments do not move."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Listed, Markup]] = {}

    def parts(
        self,
        every: Sequence[Listed],
        wanted: WantedList,
        reasons: Sequence[Trouble],
        around: Surroundings,
        models: Sequence[ModelLook],
    ) -> dict[str, Markup]:
        """HTML of what is above the rows, of the rows by their places, and of what follows."""
        found = chosen(every, wanted)
        start = (wanted.page - 1) * ROWS
        shown = found[start : start + ROWS]
        counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        warned = []
        for each in every:
            counts[each.view.status] += 1
            if each.warnings:
                counts["warnings"] += 1
                warned.append(each)
        drifting = [model for model in models if model.drift]
        content: dict[str, Any] = {
            "reasons": reasons,
            "warned": warned[:MAX_WARNINGS],
            "more_warned": len(warned) - MAX_WARNINGS,
            "drifting": drifting,
            "around": around,
            "behind_ms": max((each.behind_ms for each in around.learners.values()), default=0),
            "counts": counts,
            "wanted": wanted,
            "found": len(found),
            "total": len(every),
            "n_models": len(models),
            "models": models[:MAX_MODELS],
            "start": start,
            "shown": len(shown),
        }
        names = ("warnings", "around", "counts", "after", "models")
        parts = {name: rendered(f"overview/{name}.html", **content) for name in names}
        if len(self._rows) > MAX_KEPT_ROWS:
            self._rows.clear()
        rows = {f"row-{place}": self._row(each) for place, each in enumerate(shown)}
        empty = {f"row-{place}": Markup("") for place in range(len(shown), ROWS)}
        return {**parts, **rows, **empty}

    def _row(self, each: Listed) -> Markup:
        kept = self._rows.get(each.view.id)
        if kept is not None and kept[0] is each:
            return kept[1]
        html = _row(each)
        self._rows[each.view.id] = each, html
        return html


def chosen(every: Sequence[Listed], wanted: WantedList) -> list[Listed]:
    """Those that are wanted, in the order that is wanted."""
    text = wanted.q.lower()
    found = [each for each in every if text in each.searched and _has(each, wanted.status)]
    match wanted.sort:
        case "name":
            return sorted(found, key=lambda each: each.view.id)
        case "owner":
            return sorted(found, key=lambda each: (not each.owner, each.owner.lower(), each.view.id))
        case "started":
            return sorted(found, key=lambda each: each.view.started_at or "", reverse=True)
        case "decisions":
            return sorted(found, key=lambda each: -each.decisions)
    newest = sorted(found, key=lambda each: each.view.updated_at, reverse=True)
    return sorted(newest, key=lambda each: (not each.warnings, ORDER[each.view.status]))


def _row(each: Listed) -> Markup:
    view = each.view
    arms = [
        {"name": arm, "share": share, "exposures": each.exposures.get(arm, 0)}
        for arm, share in each.shares.items()
    ]
    # The paths are those in `/results`.
    numbers = ShownNumbers({"status": view.status, "winner": view.winner, "arms": arms})
    counts = () if each.look is None else each.look.counts
    return rendered(
        "overview/row.html",
        each=each,
        view=view,
        n=numbers.show,
        bar=Markup(share_bar(each.shares)),
        spark=Markup(sparkline(counts, "Decisions")),
        rate=rate_of(counts) if view.status == "running" else "",
    )


def _has(each: Listed, status: str) -> bool:
    if status == "warnings":
        return bool(each.warnings)
    return status in ("", each.view.status)


def finding_of(reason: str) -> str:
    """First sentence of a result's reason: what was found. Those after it say under which conditions."""
    return SENTENCE.split(reason, maxsplit=1)[0]
