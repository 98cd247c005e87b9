"""Path of a reward through one worker: verify the token, append."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.rewards import DecisionReward, Reward, RewardVerdict
from bandit_serve.base.turns import Turn, all_ended
from bandit_serve.errors import SetAside, StoreUnavailable, Unavailable
from bandit_serve.experiments.policy import order_of
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica, set_aside
from bandit_serve.log.events import REWARD
from bandit_serve.log.token import Keyring
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.tail import Tail
from bandit_serve.rewards.appender import VERDICTS, RewardAppender, beyond_bounds
from bandit_serve.rewards.client_metrics import ClientMetrics
from bandit_serve.rewards.demanded import EXPOSURE_VERDICTS, UNKNOWN, DemandedExposures, on_demand
from bandit_serve.rewards.event_ids import NO_EVENT, hash_event
from bandit_serve.rewards.last_sent import TAKEN_BACK, LastSent
from bandit_serve.store.store import Store

RENEW_S = 1.0
"""Shortest time between two reads of the token keys, so that forged tokens do not cause one each."""
TOKENS_A_TURN = 500
"""Tokens that are opened in one turn: each may have kilobytes of features."""

T = TypeVar("T")
Settle = Callable[[int, RewardVerdict | Exception], None]
"""Called with the place of a reward, and its verdict or its error."""


class ExperimentRewards:
    """Intake of one experiment: the metrics that clients send, and the appender of its rewards."""

    def __init__(self, store: Store, owner: str, record: Record, n_features: int) -> None:
        experiment = record.experiment
        self.metrics = ClientMetrics(record)
        self.n_features = n_features
        self.appender = RewardAppender(store, owner, experiment, n_features, order_of(experiment))
        self._owner = owner
        self._last_sent = LastSent(store) if experiment.unit == "user" else None
        self.demanded = DemandedExposures(store, owner, experiment.attribution.window_ms, n_features)

    def learn(self, record: Record) -> None:
        """Takes rewards of metrics that have joined, too."""
        self.metrics = ClientMetrics(record)
        self.appender.learn(record.experiment)

    async def append(
        self, rows: NDArray[np.void], events: NDArray[np.uint64] | None, x: NDArray[np.float32] | None
    ) -> bytes:
        """Appends rewards, those with an event and plain ones, as `RewardAppender` does. events: None without any."""
        by_event = None if events is None else events != NO_EVENT
        if events is None or by_event is None or not by_event.any():
            return await self.appender.append(rows, x)
        await self._mark_taken_back(rows, events)
        if by_event.all():
            return await self.appender.append_events(rows, events, x)
        of_events, plain = np.flatnonzero(by_event), np.flatnonzero(~by_event)
        letters = np.empty(len(rows), np.uint8)
        x_of = (lambda some: None) if x is None else x.__getitem__
        appends = (
            self.appender.append(rows[plain], x_of(plain)),
            self.appender.append_events(rows[of_events], events[of_events], x_of(of_events)),
        )
        for places, appended in zip((plain, of_events), await all_ended(appends), strict=True):
            letters[places] = np.frombuffer(appended, np.uint8)
        return letters.tobytes()

    async def _mark_taken_back(self, rows: NDArray[np.void], events: NDArray[np.uint64]) -> None:
        """Leaves marks of events that may wait for their exposure, by unit, in some worker."""
        taken = np.isnan(rows["value"]) & (rows["unit"] != 0)
        if self._last_sent is not None and taken.any():
            columns = rows["unit"][taken].tolist(), rows["metric"][taken].tolist(), events[taken].tolist()
            marked = list(zip(*columns, strict=True))
            await self._last_sent.mark(self._owner, marked, [TAKEN_BACK] * len(marked))


class Rewards:
    """Takes rewards. The token holds all that is known of the decision, so only the metrics are looked up."""

    def __init__(self, store: Store, replica: Replica, tail: Tail, keyring: Keyring) -> None:
        self.keyring = keyring
        self._store = store
        self._replica = replica
        self._tail = tail
        self._by_uid: dict[int, ExperimentRewards] = {}
        self._renewing = asyncio.Lock()
        self._next_renewal_s = 0.0
        self._renewal_failed: StoreUnavailable | None = None
        self._apart: set[asyncio.Task[None]] = set()
        replica.on_deleted(self._forget)
        replica.on_change(self._learn)

    def _forget(self, experiment: str, uid: int | None) -> None:
        if uid is not None:
            self._by_uid.pop(uid, None)

    def _learn(self, name: str) -> None:
        live = self._replica.experiments.get(name)
        intake = None if live is None else self._by_uid.get(live.record.uid)
        if live is not None and intake is not None and intake.metrics.n != len(live.experiment.metrics):
            intake.learn(live.record)

    async def submit(self, rewards: Sequence[Reward | DecisionReward]) -> list[RewardVerdict]:
        """Returns a verdict for each reward, when the accepted ones are in the log.

        Raises `Unavailable` when that is unknown for some of them, or one of their experiments is set aside. A retry is
        safe: a reward that was counted becomes a duplicate.
        """
        # float64 has NaN for None.
        values = np.array([reward.value for reward in rewards], np.float64)
        tokens: list[Any] = [reward.decision_id for reward in rewards]
        rows, uids, features = await self._opened(tokens, values)
        verdicts: list[RewardVerdict] = ["invalid"] * len(rewards)
        refused: SetAside | None = None
        groups: dict[int, list[int]] = {}
        for i, uid in enumerate(uids.tolist()):
            if uid == 0:
                continue
            is_aside = self._replica.aside and self._replica.aside_of(uid) is not None
            # Reading its log may set the experiment aside.
            intake = None if is_aside else self._by_uid.get(uid) or await self._rewards_of(uid)
            if intake is None:
                waits = self._reason_to_wait(uid)
                if waits is None:
                    verdicts[i] = "unknown"
                refused = refused or waits
                continue
            metric = intake.metrics.index_of(rewards[i])
            if metric is not None:
                if intake.metrics.since_ms and intake.metrics.misses(metric, int(rows["time_ms"][i])):
                    continue
                if metric:
                    rows["metric"][i] = metric
                groups.setdefault(uid, []).append(i)
        events = _hashes([reward.event_id for reward in rewards])
        await all_ended(
            [self._append(uid, rows, events, features, places, verdicts) for uid, places in groups.items()]
        )
        if refused is not None:
            raise refused
        return verdicts

    def submit_apart(self, rewards: Sequence[DecisionReward], settle: Settle) -> None:
        """Takes rewards of so many requests. Each is settled with what `submit` would return for it or raise.

        The plain ones of an experiment whose decisions are logged already are appended together; none of them waits
        for another experiment, or for a reward that takes more than its append.
        """
        values = np.array([reward.value for reward in rewards], np.float64)
        rows, uids, features = self.keyring.open([reward.decision_id for reward in rewards], values)
        demanded = on_demand(rows)
        groups: dict[int, list[int]] = {}
        for i, uid in enumerate(uids.tolist()):
            reward = rewards[i]
            intake = None if self._replica.aside else self._by_uid.get(uid)
            metric = None if intake is None or demanded[i] else intake.metrics.index_of(reward)
            if intake is None or metric is None or reward.event_id is not None or intake.metrics.since_ms:
                self._begin(self._submit_alone(i, reward, settle))
                continue
            if metric:
                rows["metric"][i] = metric
            groups.setdefault(uid, []).append(i)
        for uid, places in groups.items():
            self._begin(self._submit_group(uid, rewards, rows, features, places, settle))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)

    async def _submit_alone(self, i: int, reward: DecisionReward, settle: Settle) -> None:
        try:
            (verdict,) = await self.submit([reward])
        except Exception as error:
            settle(i, error)
        else:
            settle(i, verdict)

    async def _submit_group(
        self,
        uid: int,
        rewards: Sequence[DecisionReward],
        rows: NDArray[np.void],
        features: dict[int, bytes],
        places: list[int],
        settle: Settle,
    ) -> None:
        verdicts: list[RewardVerdict] = ["invalid"] * len(rewards)
        try:
            await self._append(uid, rows, None, features, places, verdicts)
        except Unavailable as error:
            for i in places:
                settle(i, error)
        except Exception:
            # One of them is the reason, and must not be that of the others.
            for i in places:
                self._begin(self._submit_alone(i, rewards[i], settle))
        else:
            for i in places:
                settle(i, verdicts[i])

    async def units_of(self, tokens: list[str]) -> list[tuple[int, int]]:
        """Uid of the experiment, 0 for no token of ours, and hash of the unit of each token's decision."""
        rows, uids, _ = await self._opened(tokens, np.zeros(len(tokens)))
        return list(zip(uids.tolist(), rows["unit"].tolist(), strict=True))

    async def expose(self, tokens: Sequence[str]) -> list[RewardVerdict]:
        """Logs exposures on demand; returns a verdict for each, when the accepted ones are in the log.

        A decision that is an exposure already is a `duplicate`. Raises `Unavailable` as `submit`.
        """
        rows, uids, behind = await self._opened(list(tokens), np.zeros(len(tokens)))
        verdicts: list[RewardVerdict] = ["invalid"] * len(tokens)
        groups: dict[int, list[int]] = {}
        for i, uid in enumerate(uids.tolist()):
            if uid:
                groups.setdefault(uid, []).append(i)
        await all_ended([self._expose(uid, rows, behind, places, verdicts) for uid, places in groups.items()])
        return verdicts

    async def _expose(
        self,
        uid: int,
        rows: NDArray[np.void],
        behind: dict[int, bytes],
        places: list[int],
        verdicts: list[RewardVerdict],
    ) -> None:
        is_aside = self._replica.aside and self._replica.aside_of(uid) is not None
        intake = None if is_aside else self._by_uid.get(uid) or await self._rewards_of(uid)
        if intake is None and (waits := self._reason_to_wait(uid)) is not None:
            raise waits
        for i in places:
            verdicts[i] = "unknown" if intake is None else "duplicate"
        if intake is not None:
            for i, letter in await self._demand(uid, intake, rows, behind, places):
                verdicts[i] = EXPOSURE_VERDICTS[letter]

    async def _demand(
        self,
        uid: int,
        intake: ExperimentRewards,
        rows: NDArray[np.void],
        behind: dict[int, bytes],
        places: list[int],
    ) -> list[tuple[int, int]]:
        """Logs those decisions at `places` that are exposures on demand; returns their places and letters.

        A value that is none, NaN, demands no exposure: it only takes something back.
        """
        there = on_demand(rows[places]) & ~np.isnan(rows["value"][places])
        demanded = np.array(places)[there].tolist()
        if not demanded:
            return []
        live = self._replica.by_uid.get(uid)
        if live is None and (waits := self._reason_to_wait(uid)) is not None:
            raise waits
        if live is None:
            return [(i, UNKNOWN) for i in demanded]
        letters = await intake.demanded.append(rows[demanded], [behind[i] for i in demanded], live)
        return list(zip(demanded, letters, strict=True))

    async def _opened(
        self, tokens: list[str], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.void], NDArray[np.uint64], dict[int, bytes]]:
        """Decodes tokens as `Keyring.open`; reads the keys again where one of them is not known here."""
        opened = await self._open(tokens, values)
        uids = opened[1]
        if uids.all() or all(self.keyring.knows_key_of(tokens[i]) for i in np.flatnonzero(uids == 0)):
            return opened
        await self._renew_keyring()
        return await self._open(tokens, values)

    async def _open(
        self, tokens: list[str], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.void], NDArray[np.uint64], dict[int, bytes]]:
        """Decodes tokens as `Keyring.open`, in turns of the event loop where there are many."""
        if len(tokens) <= TOKENS_A_TURN:
            return self.keyring.open(tokens, values)
        all_rows, all_uids, all_features, turn = bytearray(), [], {}, Turn()
        for start in range(0, len(tokens), TOKENS_A_TURN):
            some = slice(start, start + TOKENS_A_TURN)
            rows, uids, features = self.keyring.open(tokens[some], values[some])
            all_rows += rows.tobytes()
            all_uids.append(uids)
            all_features.update({start + i: x for i, x in features.items()})
            if turn.over:
                await turn.give_way()
        return np.frombuffer(all_rows, REWARD), np.concatenate(all_uids), all_features

    async def _renew_keyring(self) -> None:
        """Reads the token keys again, as another worker may sign with a new one; at most once in `RENEW_S`.

        Raises `StoreUnavailable` when they could not be read, and so a token's key may exist.
        """
        async with self._renewing:
            if time.monotonic() >= self._next_renewal_s:
                self._renewal_failed = None
                try:
                    self.keyring = await load_keyring(self._store)
                except StoreUnavailable as error:
                    self._renewal_failed = error
                finally:
                    self._next_renewal_s = time.monotonic() + RENEW_S
            if self._renewal_failed is not None:
                raise StoreUnavailable(str(self._renewal_failed))

    async def _append(
        self,
        uid: int,
        rows: NDArray[np.void],
        events: NDArray[np.uint64] | None,
        features: dict[int, bytes],
        places: list[int],
        verdicts: list[RewardVerdict],
    ) -> None:
        if self._replica.registry.repairs.omissions:
            places = await self._with_known_arms(uid, rows, places, verdicts)
            if not places:
                return
        chosen = rows if len(places) == len(rows) else rows[places]
        intake = self._by_uid.get(uid)
        if intake is None:  # the experiment was deleted meanwhile
            for i in places:
                verdicts[i] = "unknown"
            return
        x = None
        if features:
            await self._demand(uid, intake, rows, features, places)
            if n_bytes := 4 * intake.n_features:
                x = np.frombuffer(b"".join(features[i][:n_bytes] for i in places), np.float32)
                x = x.reshape(len(places), -1)
        letters = await intake.append(chosen, None if events is None else events[places], x)
        for i, letter in zip(places, letters, strict=True):
            verdicts[i] = VERDICTS[letter]

    async def _with_known_arms(
        self, uid: int, rows: NDArray[np.void], places: list[int], verdicts: list[RewardVerdict]
    ) -> list[int]:
        """Drops rewards for arms that the experiment does not have: a repair may have left out an arm's addition."""
        highest = int(rows["arm"][places].max())
        live = self._replica.by_uid.get(uid)
        if live is not None and highest >= len(live.exposures):
            await self._tail.wait_for_end(live.owner)
            live = self._replica.by_uid.get(uid)  # another object, if it was repaired meanwhile
        if live is None and (waits := self._reason_to_wait(uid)) is not None:
            raise waits
        n_arms = 0 if live is None else len(live.exposures)
        if highest < n_arms:
            return places
        known = rows["arm"] < n_arms
        for i in places:
            if not known[i]:
                verdicts[i] = "unknown"
        return [i for i in places if known[i]]

    def _reason_to_wait(self, uid: int) -> SetAside | None:
        """Error of an experiment that takes no rewards now; None for one that never will again."""
        aside = self._replica.aside_of(uid)
        return None if aside is None or aside[1].given_up else set_aside(*aside)

    def refusal(self, reward: Reward | DecisionReward) -> tuple[str, str] | None:
        """Says why a reward is invalid: the field, and what was expected. None if its token is the reason."""
        rows, uids, _ = self.keyring.open([reward.decision_id], np.zeros(1))
        live = self._replica.by_uid.get(int(uids[0]))
        if live is None:
            return None
        metrics = self._intake_of(live).metrics
        mistake = metrics.mistake(reward) or metrics.mistake_of_time(reward, int(rows["time_ms"][0]))
        if mistake is not None:
            return mistake.at, mistake.detail
        return "value", beyond_bounds(reward.metric or live.experiment.objective.name)

    async def _rewards_of(self, uid: int) -> ExperimentRewards | None:
        """Intake of an experiment, or None if there is none. Reads new logs first: it may be new to this worker."""
        live = self._replica.by_uid.get(uid)
        if live is None:
            await self._tail.wait_for_new_experiments()
            live = self._replica.by_uid.get(uid)
            if live is None:
                return None
        return self._intake_of(live)

    def _intake_of(self, live: LiveExperiment) -> ExperimentRewards:
        uid = live.record.uid
        if uid not in self._by_uid:
            self._by_uid[uid] = ExperimentRewards(self._store, live.owner, live.record, live.n_logged)
        return self._by_uid[uid]

    def appender_of(self, live: LiveExperiment) -> RewardAppender:
        """Appender of an experiment's rewards, one for all that append to its log."""
        return self._intake_of(live).appender

    async def drain(self) -> None:
        """Returns when no append is under way."""
        while self._apart or any(not each.appender.idle for each in self._by_uid.values()):
            await asyncio.sleep(0.005)


def _hashes(event_ids: list[str | None]) -> NDArray[np.uint64] | None:
    """Hashes of events, uint64 (n,), `NO_EVENT` for None; None where all are."""
    if not any(event_id is not None for event_id in event_ids):
        return None
    hashes = (NO_EVENT if event_id is None else hash_event(event_id) for event_id in event_ids)
    return np.fromiter(hashes, np.uint64, len(event_ids))
