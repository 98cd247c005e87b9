"""Rewards by unit: joined to the exposure that was in force for their unit, then appended as rewards by event are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.api.rewards import Reward, RewardVerdict
from bandit_serve.base._names import is_outside
from bandit_serve.base.clock import unix_ms
from bandit_serve.base.names import OUTSIDE
from bandit_serve.base.turns import Turn, all_ended
from bandit_serve.errors import FieldError, NotFound, Unavailable
from bandit_serve.folds.assignment import rendezvous
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import InForce
from bandit_serve.log.times import CLOCK_TOLERANCE_MS, JOINED_MS, UNMATCHED_MS
from bandit_serve.replication.exposures_log import ExposuresLog
from bandit_serve.replication.tail import Tail
from bandit_serve.rewards.appender import VERDICTS, RewardAppender, beyond_bounds
from bandit_serve.rewards.client_metrics import ClientMetrics
from bandit_serve.rewards.event_ids import EVENT_ID, hash_event
from bandit_serve.rewards.last_sent import TAKEN_BACK, EventOfUnit, LastSent
from bandit_serve.rewards.looks import Looks
from bandit_serve.rewards.unmatched import Event, Unmatched, UnmatchedRewards
from bandit_serve.store.store import Store

RETRY_S = 1.0
"""Pause between two looks for the exposures of unmatched rewards."""
NOT_BY_UNIT = 'expected an experiment with "unit": "user": here every decision is a unit of its own'
IN_FUTURE = f"expected a time that is at most {CLOCK_TOLERANCE_MS // 1000} s in the future"

A_TURN = 200
"""Rewards that are looked at in one turn of the event loop."""
A_LOOK = 1_000
"""Unmatched rewards whose exposures are looked for at once."""

Appenders = Callable[[LiveExperiment], RewardAppender]


class UnitEvents(NamedTuple):
    """Rewards by unit of one experiment, n each: hashes of units, Unix milliseconds, metrics, values (NaN takes the
    event back), and hashes of events.
    """

    units: NDArray[np.uint64]
    at_ms: NDArray[np.int64]
    metrics: NDArray[np.uint8]
    values: NDArray[np.float64]
    events: NDArray[np.uint64]

    @classmethod
    def of(cls, parts: Sequence[UnitEvents]) -> UnitEvents:
        return cls._make(np.concatenate(column) for column in zip(*parts, strict=True))

    def those(self, chosen: NDArray[np.bool_] | slice) -> UnitEvents:
        return UnitEvents._make(column[chosen] for column in self)

    @classmethod
    def waiting(cls, rewards: Sequence[Unmatched]) -> UnitEvents:
        events = np.array([reward.event for reward in rewards], np.uint64)
        return cls(
            units=events[:, 1].copy(),
            at_ms=np.array([reward.at_ms for reward in rewards], np.int64),
            metrics=events[:, 2].astype(np.uint8),
            values=np.array([reward.value for reward in rewards]),
            events=events[:, 3].copy(),
        )

    def events_of_units(self) -> list[EventOfUnit]:
        columns = self.units.tolist(), self.metrics.tolist(), self.events.tolist()
        return list(zip(*columns, strict=True))

    def keys(self, uid: int) -> list[Event]:
        return [(uid, *event) for event in self.events_of_units()]


class RewardsByUnit:
    """Takes rewards by unit. `flush` appends this process's own exposures to the logs.

    An exposure may be in another worker's buffer yet. So a reward is `unmatched` only after all that was decided before
    it has been read, and this worker then goes on looking for `unmatched_ms`: it counts the reward once its exposure
    comes, unless the store knows the event by then or something newer of it was sent, here or to another worker.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        tail: Tail,
        exposures: ExposuresLog,
        appender_of: Appenders,
        flush: Callable[[], Awaitable[None]],
        *,
        unmatched_ms: int = UNMATCHED_MS,
    ) -> None:
        self._replica = replica
        self._tail = tail
        self._store = store
        self._looks = Looks(exposures)
        self._last_sent = LastSent(store)
        self._appender_of = appender_of
        self._flush = flush
        self.unmatched = UnmatchedRewards(unmatched_ms)
        replica.on_deleted(self._forget)

    def _forget(self, experiment: str, uid: int | None) -> None:
        if uid is not None:
            self.unmatched.forget_experiment(uid)

    async def submit(self, rewards: Sequence[Reward]) -> list[RewardVerdict]:
        """Returns a verdict for each reward, when the accepted ones are in the log.

        Raises `Unavailable` when that is unknown for some of them, or one of their experiments is set aside. A retry is
        safe, as every event counts once.
        """
        verdicts: list[RewardVerdict] = ["unknown"] * len(rewards)
        groups: dict[str, list[int]] = {}
        for i, reward in enumerate(rewards):
            groups.setdefault(str(reward.experiment), []).append(i)
        if not all(map(self._is_known, groups)):
            # Some may be new to this worker: one look for all.
            await self._tail.wait_for_new_experiments()
        known = [(name, places) for name, places in groups.items() if self._is_known(name)]
        await all_ended([self._submit_some(name, rewards, places, verdicts) for name, places in known])
        return verdicts

    def _is_known(self, name: str) -> bool:
        return name in self._replica.experiments or name in self._replica.aside

    async def _submit_some(
        self, name: str, rewards: Sequence[Reward], places: list[int], verdicts: list[RewardVerdict]
    ) -> None:
        """Submits the rewards of one experiment, those at `places`."""
        live = self._experiment(name)
        if live is None:
            return
        now_ms, metrics = self._store.clock.now_ms(), ClientMetrics(live.record)
        valid: list[int] = []
        parts: list[UnitEvents] = []
        turn = Turn()
        for start in range(0, len(places), A_TURN):
            some = places[start : start + A_TURN]
            mistakes = [_mistake(live, metrics, rewards[i], now_ms) for i in some]
            fit = [i for i, mistake in zip(some, mistakes, strict=True) if mistake is None]
            parts.append(_columns(live, metrics, [rewards[i] for i in fit], now_ms))
            valid += fit
            if turn.over:
                await turn.give_way()
        for i in places:
            verdicts[i] = "invalid"
        if not valid:
            return
        sent = UnitEvents.of(parts)
        if len(self.unmatched):
            self.unmatched.forget(sent.keys(live.record.uid))
        # Whatever was in force then, its window has closed.
        late = sent.at_ms < now_ms - live.experiment.attribution.window_ms
        for i in valid:
            verdicts[i] = "late"
        in_time = [i for i, is_late in zip(valid, late.tolist(), strict=True) if not is_late]
        if in_time:
            for i, verdict in zip(in_time, await self._join(live, sent.those(~late)), strict=True):
                verdicts[i] = verdict

    def _experiment(self, name: str) -> LiveExperiment | None:
        """Experiment of a known name; None where it was given up or deleted meanwhile. Raises `SetAside`."""
        aside = self._replica.aside.get(name)
        if aside is not None and aside.given_up:
            return None
        try:
            return self._replica.experiment(name)
        except NotFound:
            return None

    async def _join(self, live: LiveExperiment, sent: UnitEvents) -> list[RewardVerdict]:
        """Appends rewards to the decisions that were in force. Those without one are kept for later."""
        uid = live.record.uid
        joined = await self._look(live, sent)
        mark = await self._mark(live, sent, joined)
        if not (joined.matched & _open(live, sent, joined)).all():
            await self._wait_for_exposures(live)
            again = self._replica.by_uid.get(uid)  # another object, if it was repaired meanwhile
            if again is None:
                return ["unknown"] * len(sent.units)
            live = again
            joined = await self._look(live, sent)
        verdicts: list[RewardVerdict] = ["unmatched"] * len(sent.units)
        if not joined.matched.all():
            await self._keep(uid, sent.those(~joined.matched), mark)
        if joined.matched.any():
            letters = await self._append(live, sent, joined, joined.matched)
            for i, letter in zip(np.flatnonzero(joined.matched).tolist(), letters, strict=True):
                verdicts[i] = VERDICTS[letter]
        return verdicts

    async def _mark(self, live: LiveExperiment, sent: UnitEvents, joined: InForce) -> bytes:
        """Leaves marks of what may wait here, or end a wait in another worker; returns that of the values."""
        mark = secrets.token_bytes(8)
        news = sent.those(~joined.matched | np.isnan(sent.values))
        if len(news.units):
            marks = [TAKEN_BACK if taken else mark for taken in np.isnan(news.values).tolist()]
            await self._last_sent.mark(live.owner, news.events_of_units(), marks)
        return mark

    async def _keep(self, uid: int, sent: UnitEvents, mark: bytes) -> None:
        """Keeps rewards without an exposure for later. One that takes an event back ends the wait of that event."""
        turn = Turn()
        for start in range(0, len(sent.units), A_TURN):
            some = sent.those(slice(start, start + A_TURN))
            columns = some.at_ms.tolist(), some.values.tolist()
            for event, at_ms, value in zip(some.keys(uid), *columns, strict=True):
                if math.isnan(value):
                    self.unmatched.forget([event])
                else:
                    self.unmatched.keep(event, at_ms, value, mark)
            if turn.over:
                await turn.give_way()

    async def _look(self, live: LiveExperiment, sent: UnitEvents) -> InForce:
        return await self._looks.in_force(live, sent.units, sent.at_ms)

    async def _wait_for_exposures(self, live: LiveExperiment) -> None:
        """Returns when the exposures of all decisions that were made until now have been read."""
        flushed = asyncio.ensure_future(self._flush())
        await asyncio.sleep(JOINED_MS / 1000)
        await flushed
        await self._tail.wait_for_end(live.owner)

    async def _append(
        self,
        live: LiveExperiment,
        sent: UnitEvents,
        joined: InForce,
        chosen: NDArray[np.bool_],
        *,
        only_new: bool = False,
    ) -> bytes:
        rows = joined.rows[chosen]
        rows["metric"], rows["value"] = sent.metrics[chosen], sent.values[chosen]
        x = joined.x[chosen] if joined.x.shape[1] else None
        return await self._appender_of(live).append_events(rows, sent.events[chosen], x, only_new=only_new)

    def refusal(self, reward: Reward) -> tuple[str, str] | None:
        """Says why a reward is invalid: the field, and what was expected. None for an experiment that is not here."""
        live = self._replica.experiments.get(str(reward.experiment))
        if live is None:
            return None
        mistake = _mistake(live, ClientMetrics(live.record), reward, self._store.clock.now_ms())
        if mistake is not None:
            return mistake.at, mistake.detail
        return "value", beyond_bounds(reward.metric or live.experiment.objective.name)

    async def run(self) -> None:
        """Goes on looking for the exposures of unmatched rewards, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self.look_again()

    async def look_again(self) -> None:
        """Counts the unmatched rewards whose exposure has come."""
        turn = Turn()
        for uid, rewards in (await self.unmatched.by_experiment()).items():
            for start in range(0, len(rewards), A_LOOK):
                live = self._replica.by_uid.get(uid)
                if live is None:
                    break
                with contextlib.suppress(Unavailable):
                    await self._retry(live, rewards[start : start + A_LOOK])
                if turn.over:
                    await turn.give_way()

    async def _retry(self, live: LiveExperiment, rewards: Sequence[Unmatched]) -> None:
        """Counts those of some rewards whose exposure has come, unless something newer of their event was sent."""
        joined = await self._look(live, UnitEvents.waiting(rewards))
        there = np.flatnonzero(joined.matched)
        there = there[[self.unmatched.has(rewards[i]) for i in there.tolist()]] if len(there) else there
        if not len(there):
            return
        chosen = [rewards[i] for i in there.tolist()]
        sent, joined = UnitEvents.waiting(chosen), InForce._make(column[there] for column in joined)
        marks = await self._last_sent.read(live.owner, sent.events_of_units())
        last = np.array([mark in (None, each.mark) for mark, each in zip(marks, chosen, strict=True)])
        if last.any():
            await self._append(live, sent, joined, last, only_new=True)
            # Who took one back since may have come before it was there.
            marks = await self._last_sent.read(live.owner, sent.events_of_units())
            taken = last & np.array([mark == TAKEN_BACK for mark in marks])
            if taken.any():
                nothing = sent._replace(values=np.full(len(chosen), np.nan))
                await self._append(live, nothing, joined, taken)
        self.unmatched.drop(chosen)


def _open(live: LiveExperiment, sent: UnitEvents, joined: InForce) -> NDArray[np.bool_]:
    """True, bool (n,), where the window of what was in force had not closed at the reward's time.

    Whoever comes back after that was decided for anew, and that exposure may not have been read yet.
    """
    is_open: NDArray[np.bool_] = joined.rows["time_ms"] + live.experiment.attribution.window_ms >= sent.at_ms
    return is_open


def _mistake(live: LiveExperiment, metrics: ClientMetrics, reward: Reward, now_ms: int) -> FieldError | None:
    """Mistake of a reward by unit: its field, and what was expected; None without one."""
    if live.experiment.unit != "user":
        return FieldError("experiment", NOT_BY_UNIT)
    if not is_outside(str(reward.unit)):
        return FieldError("unit", OUTSIDE)
    if reward.event_id is None:
        return FieldError("event_id", EVENT_ID)
    if metrics.index_of(reward) is None:
        return metrics.mistake(reward)
    if reward.at is not UNSET and unix_ms(reward.at) > now_ms + CLOCK_TOLERANCE_MS:
        return FieldError("at", IN_FUTURE)
    return None


def _columns(
    live: LiveExperiment, metrics: ClientMetrics, rewards: Sequence[Reward], now_ms: int
) -> UnitEvents:
    """Rewards that are valid, as columns. Of one without a time, the exposure's clock may be a little ahead of ours."""
    latest_ms = now_ms + JOINED_MS
    at_ms = [latest_ms if reward.at is UNSET else unix_ms(reward.at) for reward in rewards]
    return UnitEvents(
        units=rendezvous(live.record).hash_units([str(reward.unit) for reward in rewards]),
        at_ms=np.array(at_ms, np.int64),
        metrics=np.array([metrics.index_of(reward) for reward in rewards], np.uint8),
        # float64 has NaN for None.
        values=np.array([reward.value for reward in rewards], np.float64),
        events=np.array([hash_event(str(reward.event_id)) for reward in rewards], np.uint64),
    )
