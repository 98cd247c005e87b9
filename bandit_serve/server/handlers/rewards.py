"""Routes of rewards, for one or many, and of exposures on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import cast

from aiohttp import web
from msgspec import UNSET

from bandit_serve.api.rewards import (
    MAX_REWARDS,
    DecisionReward,
    DecisionRewards,
    ExposuresRequest,
    Reward,
    RewardsRequest,
    RewardVerdict,
    Token,
    rewards_report,
)
from bandit_serve.base.request_tags import current_tags
from bandit_serve.base.validation import FieldMistake, as_invalid_input
from bandit_serve.errors import FieldError, InvalidInput, InvalidToken, Late, NotFound, RewardConflict
from bandit_serve.rewards.order import is_by_unit, rounds
from bandit_serve.rewards.rewards import Settle
from bandit_serve.server.handlers.single_rewards import SingleRewards
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, Entries, Reply, encoded, read_bytes
from bandit_serve.server.wire_form import WireForm, form_of

ONE_OR_MANY = "expected either decision_id and value, or experiment, unit, value and event_id, or rewards"
MAX_ROUNDS = 64
TOO_MANY_ROUNDS = f"expected one event to be named by token and by unit by turns at most {MAX_ROUNDS} times"


class RewardHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._timeout_s = timeout_s = service.settings.seconds("body_timeout")
        self._body: Body[RewardsRequest | DecisionRewards] = Body(
            RewardsRequest, timeout_s=timeout_s, flat=True, usual=DecisionRewards
        )
        self._entries: Entries[Reward] = Entries(Reward, "rewards", MAX_REWARDS)
        self._exposures = Body(ExposuresRequest, timeout_s=timeout_s, flat=True)
        self._single = SingleRewards(self._submit_apart, self._reply_to)
        self._tokens: Entries[str] = Entries(Token, "decision_ids", MAX_REWARDS)

    def reward(self, _: str, form: WireForm, body: bytes) -> Awaitable[Reply]:
        try:
            asked = self._body.decode(form, body)
        except InvalidInput as error:
            return self._reward_valid(error, form, body)
        rewards = _rewards(asked)
        if asked.rewards is not UNSET:
            return self._reward_many(rewards, form)
        if isinstance(rewards[0], DecisionReward) and current_tags() is None:
            self._service.admit_batch(1)
            return self._single.take(rewards[0], form)
        return self._reward_one(rewards[0], form)

    async def _reward_valid(self, error: InvalidInput, form: WireForm, body: bytes) -> Reply:
        verdicts = await self._submit_valid(await self._entries.after(error, form, body))
        return self._report(verdicts, form)

    async def _reward_many(self, rewards: Sequence[Reward | DecisionReward], form: WireForm) -> Reply:
        return self._report(await self._submit(rewards), form)

    def _report(self, verdicts: list[RewardVerdict], form: WireForm) -> Reply:
        for verdict in set(verdicts):
            self._service.counters.add(f"rewards_{verdict}", verdicts.count(verdict))
        return encoded(form, rewards_report(verdicts))

    async def _reward_one(self, reward: Reward | DecisionReward, form: WireForm) -> Reply:
        (verdict,) = await self._submit([reward])
        return self._reply_to(reward, verdict, form)

    def _reply_to(self, reward: Reward | DecisionReward, verdict: RewardVerdict, form: WireForm) -> Reply:
        """Answer to a request with one reward; raises the error where it counts nowhere."""
        self._service.counters.add(f"rewards_{verdict}")
        if verdict == "late":
            raise Late("The decision's attribution window has closed.")
        if verdict == "unknown":
            raise _unknown(reward)
        if verdict == "conflict":
            raise RewardConflict(
                "The decision has another value for this metric; several add up where each has an event_id."
            )
        if verdict == "invalid":
            raise self._why_invalid(reward)
        return _report_of(verdict, form)

    def _submit_apart(self, rewards: Sequence[DecisionReward], settle: Settle) -> None:
        self._service.rewards.submit_apart(rewards, settle)

    async def _submit(self, rewards: Sequence[Reward | DecisionReward]) -> list[RewardVerdict]:
        """Submits rewards: those by unit after the others, but of one event in the order in which they stand."""
        service = self._service
        service.admit_batch(len(rewards))
        if not rewards or isinstance(rewards[0], DecisionReward):  # then all are
            return await service.rewards.submit(rewards)
        verdicts: list[RewardVerdict] = ["invalid"] * len(rewards)
        taken = await rounds(service.rewards, service.node.replica, cast(Sequence[Reward], rewards))
        if len(taken) > MAX_ROUNDS:
            raise InvalidInput(f"rewards: {TOO_MANY_ROUNDS}.", [FieldError("rewards", TOO_MANY_ROUNDS)])
        for i, places in enumerate(taken):
            some = [rewards[place] for place in places]
            if not some:
                continue
            submitted = await (
                service.rewards_by_unit.submit(cast(list[Reward], some))
                if i % 2
                else service.rewards.submit(some)
            )
            for place, verdict in zip(places, submitted, strict=True):
                verdicts[place] = verdict
        return verdicts

    async def expose(self, request: web.Request) -> web.Response:
        form, body = form_of(request.headers), await read_bytes(request, self._timeout_s)
        try:
            entries: Sequence[str | InvalidInput] = self._exposures.decode(form, body).decision_ids
        except InvalidInput as error:
            entries = await self._tokens.after(error, form, body)
        self._service.admit_batch(len(entries))
        verdicts: list[RewardVerdict] = ["invalid"] * len(entries)
        valid = [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, str)]
        exposed = await self._service.rewards.expose([token for _, token in valid])
        for (i, _), verdict in zip(valid, exposed, strict=True):
            verdicts[i] = verdict
        reply = encoded(form, rewards_report(verdicts))
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    async def _submit_valid(self, entries: Sequence[Reward | InvalidInput]) -> list[RewardVerdict]:
        verdicts: list[RewardVerdict] = ["invalid"] * len(entries)
        valid = [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, Reward)]
        submitted = await self._submit([entry for _, entry in valid])
        for (i, _), verdict in zip(valid, submitted, strict=True):
            verdicts[i] = verdict
        return verdicts

    def _why_invalid(self, reward: Reward | DecisionReward) -> Exception:
        by_unit, by_token = self._service.rewards_by_unit, self._service.rewards
        refusal = by_unit.refusal(reward) if is_by_unit(reward) else by_token.refusal(reward)
        if refusal is None:
            return InvalidToken("decision_id: expected the decision_id of one of our decisions.")
        at, detail = refusal
        return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])


@lru_cache(16)
def _report_of(verdict: RewardVerdict, form: WireForm) -> Reply:
    return encoded(form, rewards_report([verdict]))


def _unknown(reward: Reward | DecisionReward) -> NotFound:
    if is_by_unit(reward):
        return NotFound(f"There is no experiment {reward.experiment!r}.")
    return NotFound("The decision's experiment does not exist any more.")


def _rewards(asked: RewardsRequest | DecisionRewards) -> Sequence[Reward | DecisionReward]:
    given = {
        name: field for name in asked.__struct_fields__[:-1] if (field := getattr(asked, name)) is not UNSET
    }
    if asked.rewards is not UNSET:
        if given:
            raise InvalidInput(f"The body has both: {ONE_OR_MANY}.", [FieldError("rewards", ONE_OR_MANY)])
        return asked.rewards
    needed = ("experiment", "unit", "value", "event_id") if "unit" in given else ("decision_id", "value")
    missing = next((name for name in needed if name not in given), None)
    if missing is not None:
        raise InvalidInput(f"{missing} is missing: {ONE_OR_MANY}.", [FieldError(missing, ONE_OR_MANY)])
    if isinstance(asked, DecisionRewards):
        return [DecisionReward(**given)]
    try:
        return [Reward(**given)]
    except FieldMistake as mistake:
        raise as_invalid_input([FieldError(mistake.at, str(mistake))]) from None
