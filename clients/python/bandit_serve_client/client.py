"""Client for asyncio."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

from bandit_serve_client import calls
from bandit_serve_client.async_connections import AsyncConnections
from bandit_serve_client.async_outbox import AsyncOutbox
from bandit_serve_client.attempts import Attempts, Repeat
from bandit_serve_client.backlog import OutboxSettings
from bandit_serve_client.calls import Call
from bandit_serve_client.decisions import (
    Context,
    Decided,
    Decision,
    DecisionRequest,
    Features,
    Predicted,
    Prediction,
    PredictionRequest,
)
from bandit_serve_client.errors import ClientError
from bandit_serve_client.experiment_calls import ExperimentCalls
from bandit_serve_client.fallback import Default, Fallback
from bandit_serve_client.http import Origin
from bandit_serve_client.model_calls import ModelCalls
from bandit_serve_client.models import Health
from bandit_serve_client.open_decision import OpenDecision
from bandit_serve_client.rewards import (
    NOTHING_SENT,
    AnyReward,
    Reward,
    RewardsReport,
    UnitReward,
    Verdict,
    report_on,
    to_send,
)

T = TypeVar("T")


class Client:
    """Client of one service, for one event loop.

    url : `http` or `https`, with a path where the service is behind one.
    key : sent as `Authorization: Bearer`.
    timeout : seconds for a call in all, its retries included; each call may be given another.
    connect_timeout : seconds for a connection.
    max_connections : connections at a time; further calls wait for one.
    outbox : settings of the background in which queued rewards are sent.
    ssl_context : for `https`; the system's certificates are trusted without it.

    Calls raise `ClientError`: `Problem` where the service says no, `NotConnected`, `NoAnswer` or `TimedOut` where it
    can not be asked. `docs/client.md` has the rule of what is sent again.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
        max_connections: int = 100,
        outbox: OutboxSettings | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if not (timeout > 0 and connect_timeout > 0 and max_connections > 0):
            raise ValueError("expected timeout, connect_timeout and max_connections above 0")
        self._timeout_s = timeout
        self._connections = AsyncConnections(
            Origin.of(url, key),
            connect_timeout_s=connect_timeout,
            max_connections=max_connections,
            ssl_context=ssl_context,
        )
        self._outbox = AsyncOutbox(self._send_batch, timeout, outbox or OutboxSettings())
        self._fallback = Fallback()
        self.experiments = ExperimentCalls(self._send)
        self.models = ModelCalls(self._send)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def decide(
        self,
        experiment: str,
        *,
        unit: str | None = None,
        context: Context | None = None,
        eligible: Sequence[str] | None = None,
        covariates: Mapping[str, float] | None = None,
        timeout: float | None = None,
    ) -> Decision:
        """Draws an arm."""
        return await self._send(calls.decide(experiment, unit, context, eligible, covariates), timeout)

    async def decide_many(
        self, experiment: str, requests: Sequence[DecisionRequest], *, timeout: float | None = None
    ) -> list[Decided]:
        """Draws an arm for each of at most 10,000 requests; an entry that is refused is a `Problem`."""
        return await self._send(calls.decide_many(experiment, requests), timeout)

    async def predict(
        self,
        experiment: str,
        user_id: str | None = None,
        *,
        item_id: str | None = None,
        item_ids: Sequence[str] | None = None,
        k: int | None = None,
        exclude: Sequence[str] = (),
        features: Features | None = None,
        unit: str | None = None,
        context: Context | None = None,
        eligible: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Draws an arm and predicts with its model."""
        request = PredictionRequest(
            user_id=user_id,
            item_id=item_id,
            item_ids=None if item_ids is None else list(item_ids),
            k=k,
            exclude=list(exclude),
            features=features,
            unit=unit,
            context=context,
            eligible=None if eligible is None else list(eligible),
        )
        return await self._send(calls.predict(experiment, request), timeout)

    async def predict_many(
        self, experiment: str, requests: Sequence[PredictionRequest], *, timeout: float | None = None
    ) -> list[Predicted]:
        """Predicts for each of at most 10,000 requests; an entry that is refused is a `Problem`."""
        return await self._send(calls.predict_many(experiment, requests), timeout)

    async def reward(
        self,
        decision_id: str | None,
        value: float | None,
        *,
        metric: str | None = None,
        event_id: str | None = None,
        timeout: float | None = None,
    ) -> Verdict:
        """Counts a reward; when it returns, the reward is in the log.

        A decision without an id, of a paused or stopped experiment or outside of the audience, takes none: `unmatched`,
        and nothing is sent. Raises `Late`, `NotFound`, `Conflict` or `InvalidRequest` where it does not count.
        """
        reward = Reward(decision_id, value, metric, event_id)
        if reward.settled is not None:
            return reward.settled
        return await self._send(calls.reward(reward), timeout)

    async def rewards(self, rewards: Sequence[AnyReward], *, timeout: float | None = None) -> RewardsReport:
        """Counts at most 10,000 rewards; each has its verdict in the report.

        Those of decisions without an id are `unmatched`, and are not sent.
        """
        sent = to_send(rewards)
        if rewards and not sent:
            return report_on(rewards, NOTHING_SENT)
        return report_on(rewards, await self._send(calls.rewards(sent), timeout))

    async def track(
        self,
        experiment: str,
        *,
        unit: str,
        value: float | None = 1.0,
        metric: str | None = None,
        event_id: str | None = None,
        at: datetime | str | None = None,
        timeout: float | None = None,
    ) -> Verdict:
        """Counts a reward of a unit, in an experiment with `unit: user`, as `reward` does.

        An `event_id` that is not given is made up: it is the same in the retries of this call, and another in the next.
        """
        reward = UnitReward.of(experiment, unit, value, metric, event_id, at)
        return await self._send(calls.reward(reward), timeout)

    async def exposures(self, decision_ids: Sequence[str], *, timeout: float | None = None) -> RewardsReport:
        """Makes exposures of decisions that were evaluated in bulk, each once."""
        return await self._send(calls.exposures(decision_ids), timeout)

    async def health(self) -> Health:
        """Asks a worker whether it can serve. Raises `Unavailable` where it can not."""
        return await self._send(calls.health())

    @asynccontextmanager
    async def deciding(
        self,
        experiment: str,
        *,
        unit: str | None = None,
        context: Context | None = None,
        eligible: Sequence[str] | None = None,
        default: Default | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[OpenDecision]:
        """Draws an arm for the block; what it is rewarded with is queued, and sent in the background.

        With a `default` nothing is raised: it is served where the service can not be asked, and counted.
        """
        yield await self.open(
            experiment, unit=unit, context=context, eligible=eligible, default=default, timeout=timeout
        )

    async def open(
        self,
        experiment: str,
        *,
        unit: str | None = None,
        context: Context | None = None,
        eligible: Sequence[str] | None = None,
        default: Default | None = None,
        timeout: float | None = None,
    ) -> OpenDecision:
        """Draws an arm as `deciding` does, without a block.

        With a `default` a call is sent once, and none is sent in the second after the service could not be asked.
        """
        call = calls.decide(experiment, unit, context, eligible)
        if default is None:
            return OpenDecision.of(await self._send(call, timeout), self._outbox.put)
        if not self._fallback.is_pausing:
            try:
                once = Call(call.request, call.read, Repeat.NEVER)
                return OpenDecision.of(await self._send(once, timeout), self._outbox.put)
            except ClientError as error:
                self._fallback.after(error)
        return OpenDecision.of(self._fallback.decision(experiment, default), self._outbox.put)

    def queue(self, reward: AnyReward) -> bool:
        """Queues a reward, to be sent in the background; False where the queue is full.

        That of a decision without an id is counted as `unmatched` there.
        """
        if not isinstance(reward, Reward | UnitReward):
            raise TypeError(f"expected a Reward or a UnitReward, not {reward!r}")
        return self._outbox.put(reward)

    @property
    def n_queued(self) -> int:
        """Rewards that wait to be sent."""
        return len(self._outbox)

    @property
    def counts(self) -> Counter[str]:
        """Counts since the start.

        Of queued rewards by verdict, `refused` (the queue was full), `lost` (not sent before the end) and
        `failed_sends` (of batches, which were sent again); of `defaults` that were served, and why, by error.
        """
        return self._outbox.counts + self._fallback.counts

    async def flush(self, timeout: float | None = None) -> bool:
        """Waits until what is queued now has its verdicts; False where `timeout`, in seconds, was too short."""
        return await self._outbox.flush(timeout)

    async def close(self) -> None:
        """Sends what is queued, within the outbox's `close_timeout`, and closes all connections."""
        await self._outbox.close()
        await self._connections.close()

    async def _send_batch(self, rewards: Sequence[AnyReward], timeout: float) -> RewardsReport:
        return await self.rewards(rewards, timeout=timeout)

    async def _send(self, call: Call[T], timeout: float | None = None) -> T:
        attempts = Attempts(call.repeat, self._timeout_s if timeout is None else timeout)
        while True:
            try:
                answer = await self._connections.ask(call.request, attempts.until_s)
                return call.result(answer)
            except ClientError as error:
                pause_s = attempts.pause_after(error)
            await self._connections.pause(pause_s)
