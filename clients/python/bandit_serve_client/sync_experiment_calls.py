"""Calls about experiments, for threads.

Made by make_sync.py; changes belong into experiment_calls.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from bandit_serve_client import calls
from bandit_serve_client.calls import Call, given
from bandit_serve_client.description import Description
from bandit_serve_client.errors import NotFound
from bandit_serve_client.experiments import Experiment, HistoryEntry, Results

T = TypeVar("T")


class SyncSending(Protocol):
    """Protocol of what sends a call."""

    def __call__(self, call: Call[T]) -> T: ...


class SyncExperimentCalls:
    """Calls about experiments. Those that change one take its `etag` as `if_match`: it must not have changed since."""

    def __init__(self, send: SyncSending) -> None:
        self._send = send

    def create(self, document: Mapping[str, Any]) -> Experiment:
        """Makes an experiment, as a draft, from its description, as it is in files."""
        return self._send(calls.create(document))

    def apply(self, document: Mapping[str, Any]) -> Experiment:
        """Makes an experiment what its description says; does nothing where it is that already.

        A draft is replaced. In a started one the policy may differ, and arms that are in only one of the two are added
        or removed; raises `FixedOnceCreated`, before anything is changed, where anything else differs.
        """
        description = Description(document)
        try:
            standing = self._send(calls.get(description.id))
        except NotFound:
            return self._send(calls.create(document))
        for change in description.changes(standing):
            standing = self._send(change)
        return standing

    def replace(
        self, experiment: str, document: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Makes a draft another one, of the same name."""
        return self._send(calls.replace_draft(experiment, document, if_match))

    def get(self, experiment: str) -> Experiment:
        return self._send(calls.get(experiment))

    def list(self) -> Sequence[Experiment]:
        """Lists all experiments by name."""
        page = self._send(calls.experiments(None))
        listed = [*page.entries]
        while page.after is not None:
            page = self._send(calls.experiments(page.after))
            listed += page.entries
        return listed

    def delete(self, experiment: str, *, reason: str | None = None, if_match: str | None = None) -> None:
        """Deletes a draft, or an experiment that is stopped, for good."""
        self._send(calls.delete(experiment, reason, if_match))

    def start(self, experiment: str, *, reason: str | None = None, if_match: str | None = None) -> Experiment:
        """Starts a draft, or goes on after a pause."""
        return self._send(calls.move(experiment, "start", given(reason=reason), if_match))

    def pause(self, experiment: str, *, reason: str | None = None, if_match: str | None = None) -> Experiment:
        """Gives control to everyone until it is started again."""
        return self._send(calls.move(experiment, "pause", given(reason=reason), if_match))

    def stop(
        self,
        experiment: str,
        *,
        winner: str | None = None,
        reason: str | None = None,
        if_match: str | None = None,
    ) -> Experiment:
        """Ends it; the version of a winner is promoted."""
        body = given(winner=winner, reason=reason)
        return self._send(calls.move(experiment, "stop", body, if_match))

    def results(self, experiment: str, *, by: str | None = None) -> Results:
        """Reads the results, which cover every reward that was acknowledged before; `by` a context field, too."""
        return self._send(calls.results(experiment, by))

    def history(self, experiment: str) -> Sequence[HistoryEntry]:
        """Lists who changed what, and when, from the creation on."""
        return self._send(calls.history(experiment))

    def change_policy(
        self, experiment: str, policy: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Changes the policy; what was learned stays."""
        return self._send(calls.change_policy(experiment, policy, if_match))

    def change_layer(
        self,
        experiment: str,
        share: float,
        *,
        name: str | None = None,
        reason: str | None = None,
        if_match: str | None = None,
    ) -> Experiment:
        """Gives the experiment another share of its layer; `name`, if it is given, has to be that layer's."""
        return self._send(calls.change_layer(experiment, share, name, reason, if_match))

    def add_arm(self, experiment: str, arm: Mapping[str, Any], *, if_match: str | None = None) -> Experiment:
        """Adds an arm: an object as in a description, with a `ramp` if it has one."""
        return self._send(calls.add_arm(experiment, arm, if_match))

    def add_metric(
        self, experiment: str, metric: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Adds a metric: an object as in a description. SyncDecisions from then on are analysed on it."""
        return self._send(calls.add_metric(experiment, metric, if_match))

    def remove_arm(
        self, experiment: str, arm: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Removes an arm for good; rewards of its decisions still count."""
        return self._send(calls.remove_arm(experiment, arm, reason, if_match))

    def pause_arm(
        self, experiment: str, arm: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Gives an arm no traffic until it is resumed."""
        return self._send(calls.move_arm(experiment, arm, "pause", reason, if_match))

    def resume_arm(
        self, experiment: str, arm: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Gives a paused arm its traffic again."""
        return self._send(calls.move_arm(experiment, arm, "resume", reason, if_match))
