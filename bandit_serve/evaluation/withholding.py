"""Withholding in a log: what was drawn without an arm that could have been chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.evaluation.decisions import LoggedDecisions
from bandit_serve.experiments.spec import Experiment

MAX_NAMED = 5
Masks = Mapping[int, NDArray[np.bool_]]


class Withholding:
    """Arms, K, that the policies of a log withheld, by the revision of the experiment.

    An arm without a chance that was not withheld could be chosen by nobody: it was not eligible, or paused. `known`,
    masks bool (K,) or shorter by revision, are what the records of revisions say (`withheld_arms`). Of another revision
    an arm counts as withheld that was there and had no chance in any of its decisions. Where units keep their arms they
    have shares of former revisions, so what was withheld once counts from then on. `without` and `withheld` int64 (K,)
    count decisions in which an arm had no chance, and those of them in which it was withheld.
    """

    def __init__(self, experiment: Experiment, known: Masks) -> None:
        self.known = known
        self._keeps = experiment.keeps_assigned
        self._nothing = np.zeros(len(experiment.arms), np.int64)
        self._denied: dict[int, NDArray[np.int64]] = {}
        self._given: dict[int, NDArray[np.int64]] = {}
        self.without = self._nothing.copy()

    def add(self, decisions: LoggedDecisions) -> None:
        """Adds decisions, each once."""
        given, denied = decisions.shares > 0.0, decisions.withheld
        self.without += (decisions.shares == 0.0).sum(axis=0)
        for revision in np.unique(decisions.revision).tolist():
            own = decisions.revision == revision
            self.count(revision, given[own].sum(axis=0), denied[own].sum(axis=0))

    def count(self, revision: int, given: NDArray[np.int64], denied: NDArray[np.int64]) -> None:
        """Adds decisions of a revision: in how many each arm, (K,), had a chance, and in how many it was denied one."""
        self._given[revision] = self._given.get(revision, self._nothing) + given
        self._denied[revision] = self._denied.get(revision, self._nothing) + denied

    @property
    def withheld(self) -> NDArray[np.int64]:
        masks = self.masks()
        return sum((np.where(masks[each], n, 0) for each, n in self._denied.items()), self._nothing)

    def settled(self, decisions: LoggedDecisions) -> LoggedDecisions:
        """Decisions that were added, with what was withheld in place of all that may have been."""
        masks, withheld = self.masks(), decisions.withheld.copy()
        for revision in np.unique(decisions.revision).tolist():
            withheld[decisions.revision == revision] &= masks[revision]
        return decisions._replace(withheld=withheld)

    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Masks, bool (K,), of the arms that each revision withheld."""
        masks: dict[int, NDArray[np.bool_]] = {}
        before = np.zeros(len(self._nothing), np.bool_)
        for revision in sorted({*self.known, *self._denied}):
            mask = before.copy() if self._keeps else np.zeros(len(before), np.bool_)
            if (said := self.known.get(revision)) is not None:
                mask[: len(said)] |= said[: len(mask)]
            else:
                mask |= (self._denied[revision] > 0) & (self._given[revision] == 0)
            masks[revision] = before = mask
        return masks


def closed_to_all(arms: Sequence[str], without: NDArray[np.int64], n: int) -> list[str]:
    """Sentence, if any, on arms that a policy would choose and nobody could, in so many, int64 (K,), of n decisions."""
    found = [place for place in np.argsort(-without, kind="stable").tolist() if without[place]]
    if not found:
        return []
    named = ", ".join(f"{arms[place]!r} in {without[place]:,}" for place in found[:MAX_NAMED])
    others = f", and {len(found) - MAX_NAMED:,} more" if len(found) > MAX_NAMED else ""
    return [
        f"Some arms had no chance, and count as not there to choose: {named}{others} of {n:,} decisions. Those say "
        "nothing of them."
    ]
