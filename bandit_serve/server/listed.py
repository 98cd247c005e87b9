"""Experiments as the list shows them: each made anew only where something of it has moved."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.views import alarm_view, known_experiments, view_of
from bandit_serve.base.turns import Turn
from bandit_serve.dashboard.overview import Listed
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.server.glances import Glances
from bandit_serve.server.service import Service


class _Kept(NamedTuple):
    """Listed experiment, and what it was made of."""

    moved: tuple[Any, ...]
    shares: NDArray[np.float64]
    listed: Listed


class ListedExperiments:
    """All experiments of this worker. The same object is given again as long as nothing of it has moved."""

    def __init__(self, service: Service, glances: Glances) -> None:
        self._service = service
        self._glances = glances
        self._known: dict[str, _Kept] = {}

    async def all(self) -> list[Listed]:
        """Experiments by name, in turns with other work."""
        replica, turn = self._service.node.replica, Turn()
        listed = []
        for name in known_experiments(replica):
            if turn.over:
                await turn.give_way()
            # One may have been deleted meanwhile.
            if name in replica.experiments or name in replica.aside:
                listed.append(self._one(name))
        if len(self._known) > len(listed):
            present = {each.view.id for each in listed}
            self._known = {name: each for name, each in self._known.items() if name in present}
        return listed

    def _one(self, name: str) -> Listed:
        replica, decider = self._service.node.replica, self._service.decisions.decider(name)
        live, aside = replica.experiments.get(name), replica.aside.get(name)
        look = None if live is None else self._glances.of(live)
        moved = (live and live.record, live and live.offset, aside, tuple(decider.ejected), look)
        kept = self._known.get(name)
        if kept is not None and kept.shares is decider.shares and kept.moved == moved:
            return kept.listed
        shares = dict(zip(decider.arm_names, decider.shares.tolist(), strict=True))
        counts = [] if live is None else live.exposures.tolist()
        exposures = dict(zip(decider.arm_names, counts, strict=False))
        listed = Listed(view_of(replica, name), shares, exposures, tuple(decider.ejected), _alarm(live), look)
        self._known[name] = _Kept(moved, decider.shares, listed)
        return listed


def _alarm(live: LiveExperiment | None) -> str:
    if live is None or live.alarms is None or not live.alarms.alarms:
        return ""
    last = alarm_view(live.alarms.alarms[-1], live.experiment.arm_names)
    since = last.since[:16].replace("T", " ")
    return (
        f"The mean of {last.arm} changed from {last.before:.3g} to {last.after:.3g} soon after {since} UTC."
    )
