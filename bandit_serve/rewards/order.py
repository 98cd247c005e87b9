"""Order in which the rewards of one request, or of one batch of a file, are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from msgspec import UNSET

from bandit_serve.api.rewards import DecisionReward, Reward
from bandit_serve.base.turns import Turn
from bandit_serve.folds.assignment import rendezvous
from bandit_serve.folds.replica import Replica
from bandit_serve.rewards.rewards import Rewards

Event = tuple[int, int, str, str]
"""Experiment's uid, hash of the unit, metric, and event's id."""


def is_by_unit(reward: Reward | DecisionReward) -> TypeGuard[Reward]:
    return isinstance(reward, Reward) and reward.unit is not UNSET


async def rounds(rewards: Rewards, replica: Replica, sent: Sequence[Reward]) -> list[list[int]]:
    """Places of rewards in rounds, to be taken one after another: the even ones by token, the odd ones by unit.

    Each reward is in the first round of its way in which those of its event that come before it were taken, or are
    taken with it. So there are two, unless one event is named by token and by unit. Raises `StoreUnavailable` where
    the keys of tokens can not be read.
    """
    taken: list[list[int]] = [[], []]
    by_token = {reward.event_id for reward in sent if not is_by_unit(reward)}
    both = {reward.event_id for reward in sent if is_by_unit(reward)} & (by_token - {None})
    suspects = [i for i, reward in enumerate(sent) if reward.event_id in both]
    events = dict(zip(suspects, await _events(rewards, replica, [sent[i] for i in suspects]), strict=True))
    last: dict[Event, int] = {}
    for i, reward in enumerate(sent):
        way, event = int(is_by_unit(reward)), events.get(i)
        at = way
        if event is not None:
            before = last.get(event, way)
            at = last[event] = before + (before - way) % 2
        while at >= len(taken):
            taken.append([])
        taken[at].append(i)
    return taken


async def _events(rewards: Rewards, replica: Replica, sent: Sequence[Reward]) -> list[Event | None]:
    """Events that rewards name; None where their experiment is not here."""
    if not sent:
        return []
    units = iter(
        await rewards.units_of([str(reward.decision_id) for reward in sent if not is_by_unit(reward)])
    )
    events: list[Event | None] = []
    turn = Turn()
    for reward in sent:
        if is_by_unit(reward):
            live = replica.experiments.get(str(reward.experiment))
            unit = 0 if live is None else int(rendezvous(live.record).hash_units([str(reward.unit)])[0])
        else:
            uid, unit = next(units)
            live = replica.by_uid.get(uid)
        metric = "" if live is None else reward.metric or live.experiment.objective.name
        if turn.over:
            await turn.give_way()
        events.append(None if live is None else (live.record.uid, unit, metric, str(reward.event_id)))
    return events
