"""The way of a reward through one worker: verify, append."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.rewards import Reward, Verdict
from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.turns import Turn
from bandit_serve.errors import SetAside, StoreUnavailable
from bandit_serve.experiments.policy import order_of
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.replica import Replica, set_aside
from bandit_serve.log.events import REWARD
from bandit_serve.log.token import Keyring
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.tail import Tail
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store.store import Store

RENEW_S = 1.0
# Tokens of which each may have kilobytes of features.
OPENED_AT_ONCE = 500

Takes = Callable[[float], bool]

_LETTERS: dict[int, Verdict] = {ord("a"): "accepted", ord("d"): "duplicate", ord("l"): "late"}


class Desk:
    """Where the rewards of one experiment go: its metrics, which never change, and its appender."""

    def __init__(self, store: Store, owner: str, experiment: Experiment, n_features: int) -> None:
        self._metrics: dict[str | None, tuple[int, Takes]] = {
            metric.name: (i, metric.traits.takes) for i, metric in enumerate(experiment.metrics)
        }
        self._metrics[None] = self._metrics[experiment.objective.name]
        names = tuple(metric.name for metric in experiment.metrics)
        window_ms, order = experiment.attribution.window_ms, order_of(experiment)
        self.appender = RewardAppender(store, owner, names, window_ms, n_features, order)

    def metric_of(self, reward: Reward) -> int | None:
        """The index of a reward's metric; None where there is none or it does not take the value."""
        found = self._metrics.get(reward.metric)
        return None if found is None or not found[1](reward.value) else found[0]


class Rewards:
    """The token says everything, so nothing is looked up but the experiment's metrics."""

    def __init__(self, store: Store, replica: Replica, tail: Tail, keyring: Keyring) -> None:
        self.keyring = keyring
        self._store = store
        self._replica = replica
        self._tail = tail
        self._desks: dict[int, Desk] = {}
        self._renewing = asyncio.Lock()
        self._next_renewal_s = 0.0
        self._renewal_failed: StoreUnavailable | None = None
        replica.on_deleted(self._forget)

    def _forget(self, experiment: str, uid: int | None) -> None:
        if uid is not None:
            self._desks.pop(uid, None)

    async def submit(self, rewards: Sequence[Reward]) -> list[Verdict]:
        """A verdict for each; returns when the accepted ones are in the log.

        `Unavailable` when that is not known for all of them, or an experiment of theirs is set aside: nothing was
        counted, or the retry is a duplicate.
        """
        values = np.array([reward.value for reward in rewards], np.float64)
        tokens = [reward.decision_id for reward in rewards]
        rows, uids, features = await self._open(tokens, values)
        if not uids.all() and not all(
            self.keyring.knows_key_of(tokens[i]) for i in np.flatnonzero(uids == 0)
        ):
            await self._renew_keyring()
            rows, uids, features = await self._open(tokens, values)
        verdicts: list[Verdict] = ["invalid"] * len(rewards)
        refused: SetAside | None = None
        groups: dict[int, list[int]] = {}
        for i, uid in enumerate(uids.tolist()):
            if uid == 0:
                continue
            is_aside = self._replica.aside and self._replica.aside_of(uid) is not None
            # It may be set aside as its log is read here.
            desk = None if is_aside else self._desks.get(uid) or await self._open_desk(uid)
            if desk is None:
                waits = self._why_it_waits(uid)
                if waits is None:
                    verdicts[i] = "unknown"
                refused = refused or waits
                continue
            metric = desk.metric_of(rewards[i])
            if metric is not None:
                if metric:
                    rows["metric"][i] = metric
                groups.setdefault(uid, []).append(i)
        await _all([self._append(uid, rows, features, places, verdicts) for uid, places in groups.items()])
        if refused is not None:
            raise refused
        return verdicts

    async def _open(
        self, tokens: list[str], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.void], NDArray[np.uint64], dict[int, bytes]]:
        """`Keyring.open`, of many in turns."""
        if len(tokens) <= OPENED_AT_ONCE:
            return self.keyring.open(tokens, values)
        all_rows, all_uids, all_features, turn = bytearray(), [], {}, Turn()
        for start in range(0, len(tokens), OPENED_AT_ONCE):
            some = slice(start, start + OPENED_AT_ONCE)
            rows, uids, features = self.keyring.open(tokens[some], values[some])
            all_rows += rows.tobytes()
            all_uids.append(uids)
            all_features.update({start + i: x for i, x in features.items()})
            if turn.over:
                await turn.give_way()
        return np.frombuffer(all_rows, REWARD), np.concatenate(all_uids), all_features

    async def _renew_keyring(self) -> None:
        """Another worker may sign with a key that came since. At most once in `RENEW_S`, for forgers' sake.

        `StoreUnavailable` when it can not be known whether there is such a key.
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
        features: dict[int, bytes],
        places: list[int],
        verdicts: list[Verdict],
    ) -> None:
        if self._replica.registry.repairs.omissions:
            places = await self._of_arms_that_are(uid, rows, places, verdicts)
            if not places:
                return
        chosen = rows if len(places) == len(rows) else rows[places]
        x = None
        if features and places[0] in features:
            x = np.frombuffer(b"".join(features[i] for i in places), np.float32).reshape(len(places), -1)
        desk = self._desks.get(uid)
        if desk is None:  # it was deleted meanwhile
            for i in places:
                verdicts[i] = "unknown"
            return
        letters = await desk.appender.append(chosen, x)
        for i, letter in zip(places, letters, strict=True):
            verdicts[i] = _LETTERS[letter]

    async def _of_arms_that_are(
        self, uid: int, rows: NDArray[np.void], places: list[int], verdicts: list[Verdict]
    ) -> list[int]:
        """Those of decisions for arms that the experiment has: a repair may have left out that an arm was added."""
        highest = int(rows["arm"][places].max())
        live = self._replica.by_uid.get(uid)
        if live is not None and highest >= len(live.exposures):
            await self._tail.catch_up(live.owner)
            live = self._replica.by_uid.get(uid)  # another, where it was repaired meanwhile
        if live is None and (waits := self._why_it_waits(uid)) is not None:
            raise waits
        n_arms = 0 if live is None else len(live.exposures)
        if highest < n_arms:
            return places
        there = rows["arm"] < n_arms
        for i in places:
            if not there[i]:
                verdicts[i] = "unknown"
        return [i for i in places if there[i]]

    def _why_it_waits(self, uid: int) -> SetAside | None:
        """Of an experiment that can take no rewards now; None where it never will."""
        aside = self._replica.aside_of(uid)
        return None if aside is None or aside[1].given_up else set_aside(*aside)

    def refusal(self, reward: Reward) -> tuple[str, str] | None:
        """Why a reward whose token is ours is not valid: the field and what it should be. None: it is the token."""
        _, uids, _ = self.keyring.open([reward.decision_id], np.zeros(1))
        live = self._replica.by_uid.get(int(uids[0]))
        if live is None:
            return None
        metrics = {metric.name: metric for metric in live.experiment.metrics}
        metric = metrics.get(reward.metric or live.experiment.objective.name)
        if metric is None:
            return "metric", expected_one_of(reward.metric or "", list(metrics))
        return "value", metric.refuses(reward.value) or "expected a valid value"

    async def _open_desk(self, uid: int) -> Desk | None:
        """None for an experiment that does not exist; another worker may have decided before we heard of it."""
        live = self._replica.by_uid.get(uid)
        if live is None:
            await self._tail.catch_up_on_new()
            live = self._replica.by_uid.get(uid)
            if live is None:
                return None
        return self._desks.setdefault(uid, Desk(self._store, live.owner, live.experiment, live.n_features))

    async def drain(self) -> None:
        """Returns when no append is under way."""
        while any(not desk.appender.idle for desk in self._desks.values()):
            await asyncio.sleep(0.005)


async def _all(appends: list[Coroutine[None, None, None]]) -> None:
    if len(appends) == 1:
        await appends[0]
    elif appends:
        # Each to its end: what one experiment can not take is not the others' loss.
        for result in await asyncio.gather(*appends, return_exceptions=True):
            if result is not None:
                raise result
