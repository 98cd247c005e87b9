"""Routes of rewards, for one or many, and of exposures on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web
from msgspec import UNSET

from bandit_serve.api.rewards import (
    MAX_REWARDS,
    ExposuresRequest,
    Reward,
    RewardsRequest,
    RewardVerdict,
    Token,
    rewards_report,
)
from bandit_serve.errors import FieldError, InvalidInput, InvalidToken, Late, NotFound
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, Entries, Reply, negotiated, read_bytes

ONE_OR_MANY = "expected either decision_id and value, or rewards"


class RewardHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._timeout_s = timeout_s = service.settings.seconds("body_timeout")
        self._body = Body(RewardsRequest, timeout_s=timeout_s, msgpack=True)
        self._entries: Entries[Reward] = Entries(Reward, "rewards", MAX_REWARDS)
        self._exposures = Body(ExposuresRequest, timeout_s=timeout_s, msgpack=True)
        self._tokens: Entries[str] = Entries(Token, "decision_ids", MAX_REWARDS)

    async def reward(self, _: str, headers: Mapping[str, str], body: bytes) -> Reply:
        service = self._service
        single = False
        try:
            asked = self._body.decode(headers, body)
        except InvalidInput as error:
            verdicts = await self._submit_valid(await self._entries.after(error, headers, body))
        else:
            single = asked.rewards is UNSET
            rewards = _rewards(asked)
            verdicts = await service.rewards.submit(rewards)
        report = rewards_report(verdicts)
        counters = service.counters
        for verdict in set(verdicts):
            counters.add(f"rewards_{verdict}", verdicts.count(verdict))
        if single:
            if verdicts[0] == "late":
                raise Late("The decision's attribution window has closed.")
            if verdicts[0] == "unknown":
                raise NotFound("The decision's experiment does not exist any more.")
            if verdicts[0] == "invalid":
                raise self._why_invalid(rewards[0])
        return negotiated(headers, report)

    async def expose(self, request: web.Request) -> web.Response:
        headers, body = request.headers, await read_bytes(request, self._timeout_s)
        try:
            entries: Sequence[str | InvalidInput] = self._exposures.decode(headers, body).decision_ids
        except InvalidInput as error:
            entries = await self._tokens.after(error, headers, body)
        verdicts: list[RewardVerdict] = ["invalid"] * len(entries)
        valid = [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, str)]
        exposed = await self._service.rewards.expose([token for _, token in valid])
        for (i, _), verdict in zip(valid, exposed, strict=True):
            verdicts[i] = verdict
        reply = negotiated(headers, rewards_report(verdicts))
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    async def _submit_valid(self, entries: Sequence[Reward | InvalidInput]) -> list[RewardVerdict]:
        verdicts: list[RewardVerdict] = ["invalid"] * len(entries)
        valid = [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, Reward)]
        submitted = await self._service.rewards.submit([entry for _, entry in valid])
        for (i, _), verdict in zip(valid, submitted, strict=True):
            verdicts[i] = verdict
        return verdicts

    def _why_invalid(self, reward: Reward) -> Exception:
        refusal = self._service.rewards.refusal(reward)
        if refusal is None:
            return InvalidToken("decision_id: expected the decision_id of one of our decisions.")
        at, detail = refusal
        return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])


def _rewards(asked: RewardsRequest) -> list[Reward]:
    single = asked.decision_id is not UNSET or asked.value is not UNSET or asked.metric is not UNSET
    if asked.rewards is not UNSET:
        if single:
            raise InvalidInput(f"The body has both: {ONE_OR_MANY}.", [FieldError("rewards", ONE_OR_MANY)])
        return asked.rewards
    if asked.decision_id is UNSET or asked.value is UNSET:
        missing = "decision_id" if asked.decision_id is UNSET else "value"
        raise InvalidInput(f"{missing} is missing: {ONE_OR_MANY}.", [FieldError(missing, ONE_OR_MANY)])
    return [Reward(asked.decision_id, asked.value, None if asked.metric is UNSET else asked.metric)]
