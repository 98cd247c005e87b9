"""Route of rewards, for one or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import UNSET

from bandit_serve.api.rewards import MAX_REWARDS, Reward, RewardsRequest, RewardVerdict, rewards_report
from bandit_serve.errors import FieldError, InvalidInput, InvalidToken, Late, NotFound, RewardConflict
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, Entries, Reply, negotiated

ONE_OR_MANY = "expected either decision_id and value, or experiment, unit, value and event_id, or rewards"


FIELDS = Reward.__struct_fields__


class RewardHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._body = Body(RewardsRequest, timeout_s=service.settings.seconds("body_timeout"), msgpack=True)
        self._entries: Entries[Reward] = Entries(Reward, "rewards", MAX_REWARDS)

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
            verdicts = await self._submit(rewards)
        report = rewards_report(verdicts)
        counters = service.counters
        for verdict in set(verdicts):
            counters.add(f"rewards_{verdict}", verdicts.count(verdict))
        if single:
            if verdicts[0] == "late":
                raise Late("The decision's attribution window has closed.")
            if verdicts[0] == "unknown":
                raise _unknown(rewards[0])
            if verdicts[0] == "conflict":
                raise RewardConflict(
                    "The decision has another value for this metric; several add up where each has an event_id."
                )
            if verdicts[0] == "invalid":
                raise self._why_invalid(rewards[0])
        return negotiated(headers, report)

    async def _submit(self, rewards: Sequence[Reward]) -> list[RewardVerdict]:
        """Submits rewards; those by unit after the others, as events of theirs may be corrected."""
        service = self._service
        by_unit = [i for i, reward in enumerate(rewards) if reward.unit is not UNSET]
        if not by_unit:
            return await service.rewards.submit(rewards)
        by_token = [i for i, reward in enumerate(rewards) if reward.unit is UNSET]
        verdicts: list[RewardVerdict] = ["invalid"] * len(rewards)
        for places, submit in ((by_token, service.rewards.submit), (by_unit, service.rewards_by_unit.submit)):
            submitted = await submit([rewards[i] for i in places]) if places else []
            for i, verdict in zip(places, submitted, strict=True):
                verdicts[i] = verdict
        return verdicts

    async def _submit_valid(self, entries: Sequence[Reward | InvalidInput]) -> list[RewardVerdict]:
        verdicts: list[RewardVerdict] = ["invalid"] * len(entries)
        valid = [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, Reward)]
        submitted = await self._submit([entry for _, entry in valid])
        for (i, _), verdict in zip(valid, submitted, strict=True):
            verdicts[i] = verdict
        return verdicts

    def _why_invalid(self, reward: Reward) -> Exception:
        by_unit = reward.unit is not UNSET
        refusal = (self._service.rewards_by_unit if by_unit else self._service.rewards).refusal(reward)
        if refusal is None:
            return InvalidToken("decision_id: expected the decision_id of one of our decisions.")
        at, detail = refusal
        return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])


def _unknown(reward: Reward) -> NotFound:
    if reward.experiment is UNSET:
        return NotFound("The decision's experiment does not exist any more.")
    return NotFound(f"There is no experiment {reward.experiment!r}.")


def _rewards(asked: RewardsRequest) -> list[Reward]:
    given = {name: field for name in FIELDS if (field := getattr(asked, name)) is not UNSET}
    if asked.rewards is not UNSET:
        if given:
            raise InvalidInput(f"The body has both: {ONE_OR_MANY}.", [FieldError("rewards", ONE_OR_MANY)])
        return asked.rewards
    needed = ("experiment", "unit", "value", "event_id") if "unit" in given else ("decision_id", "value")
    missing = next((name for name in needed if name not in given), None)
    if missing is not None:
        raise InvalidInput(f"{missing} is missing: {ONE_OR_MANY}.", [FieldError(missing, ONE_OR_MANY)])
    try:
        return [Reward(**given)]
    except ValueError as error:
        raise InvalidInput(f"{error}.", [FieldError("", str(error))]) from None
