"""Calls about experiments, for asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from bandit_serve_client import calls
from bandit_serve_client.calls import Call, given
from bandit_serve_client.description import Description
from bandit_serve_client.errors import NotFound
from bandit_serve_client.experiments import Experiment, HistoryEntry, Results

T = TypeVar("T")


class Sending(Protocol):
    """Protocol of what sends a call."""

    def __call__(self, call: Call[T]) -> Awaitable[T]: ...


class ExperimentCalls:
    """Calls about experiments. Those that change one take its `etag` as `if_match`: it must not have changed since."""

    def __init__(self, send: Sending) -> None:
        self._send = send

    async def create(self, document: Mapping[str, Any]) -> Experiment:
        """Makes an experiment, as a draft, from its description, as it is in files."""
        return await self._send(calls.create(document))

    async def apply(self, document: Mapping[str, Any]) -> Experiment:
        """Makes an experiment what its description says; does nothing where it is that already.

        A draft is replaced. In a started one the policy may differ, and arms that are in only one of the two are added
        or removed; raises `FixedOnceCreated`, before anything is changed, where anything else differs.
        """
        description = Description(document)
        try:
            standing = await self._send(calls.get(description.id))
        except NotFound:
            return await self._send(calls.create(document))
        for change in description.changes(standing):
            standing = await self._send(change)
        return standing

    async def replace(
        self, experiment: str, document: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Makes a draft another one, of the same name."""
        return await self._send(calls.replace_draft(experiment, document, if_match))

    async def get(self, experiment: str) -> Experiment:
        return await self._send(calls.get(experiment))

    async def list(self) -> Sequence[Experiment]:
        """Lists all experiments by name."""
        page = await self._send(calls.experiments(None))
        listed = [*page.entries]
        while page.after is not None:
            page = await self._send(calls.experiments(page.after))
            listed += page.entries
        return listed

    async def delete(
        self, experiment: str, *, reason: str | None = None, if_match: str | None = None
    ) -> None:
        """Deletes a draft, or an experiment that is stopped, for good."""
        await self._send(calls.delete(experiment, reason, if_match))

    async def start(
        self, experiment: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Starts a draft, or goes on after a pause."""
        return await self._send(calls.move(experiment, "start", given(reason=reason), if_match))

    async def pause(
        self, experiment: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Gives control to everyone until it is started again."""
        return await self._send(calls.move(experiment, "pause", given(reason=reason), if_match))

    async def stop(
        self,
        experiment: str,
        *,
        winner: str | None = None,
        reason: str | None = None,
        if_match: str | None = None,
    ) -> Experiment:
        """Ends it; the version of a winner is promoted."""
        body = given(winner=winner, reason=reason)
        return await self._send(calls.move(experiment, "stop", body, if_match))

    async def results(self, experiment: str, *, by: str | None = None) -> Results:
        """Reads the results, which cover every reward that was acknowledged before; `by` a context field, too."""
        return await self._send(calls.results(experiment, by))

    async def history(self, experiment: str) -> Sequence[HistoryEntry]:
        """Lists who changed what, and when, from the creation on."""
        return await self._send(calls.history(experiment))

    async def change_policy(
        self, experiment: str, policy: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Changes the policy; what was learned stays."""
        return await self._send(calls.change_policy(experiment, policy, if_match))

    async def change_layer(
        self,
        experiment: str,
        share: float,
        *,
        name: str | None = None,
        reason: str | None = None,
        if_match: str | None = None,
    ) -> Experiment:
        """Gives the experiment another share of its layer; `name`, if it is given, has to be that layer's."""
        return await self._send(calls.change_layer(experiment, share, name, reason, if_match))

    async def add_arm(
        self, experiment: str, arm: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Adds an arm: an object as in a description, with a `ramp` if it has one."""
        return await self._send(calls.add_arm(experiment, arm, if_match))

    async def add_metric(
        self, experiment: str, metric: Mapping[str, Any], *, if_match: str | None = None
    ) -> Experiment:
        """Adds a metric: an object as in a description. Decisions from then on are analysed on it."""
        return await self._send(calls.add_metric(experiment, metric, if_match))

    async def remove_arm(
        self, experiment: str, arm: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Removes an arm for good; rewards of its decisions still count."""
        return await self._send(calls.remove_arm(experiment, arm, reason, if_match))

    async def pause_arm(
        self, experiment: str, arm: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Gives an arm no traffic until it is resumed."""
        return await self._send(calls.move_arm(experiment, arm, "pause", reason, if_match))

    async def resume_arm(
        self, experiment: str, arm: str, *, reason: str | None = None, if_match: str | None = None
    ) -> Experiment:
        """Gives a paused arm its traffic again."""
        return await self._send(calls.move_arm(experiment, arm, "resume", reason, if_match))
