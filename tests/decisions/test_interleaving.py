"""Drafting of one list from two."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from builders import experiment, record

from bandit_serve.api.decisions import Predicted, PredictRequest, ScoredItem
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.decisions.interleaving import team_draft
from bandit_serve.decisions.membership import held_out_units
from bandit_serve.errors import Conflict
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.log.token import Keyring, new_key


def ranked(names: str) -> list[ScoredItem]:
    return [ScoredItem(name, float(-place)) for place, name in enumerate(names)]


def names_and_teams(first: str, second: str, k: int, coin: object) -> tuple[str, list[int]]:
    drafted = team_draft((ranked(first), ranked(second)), k, coin)  # type: ignore[arg-type]
    return "".join(each.item.item_id for each in drafted), [each.team for each in drafted]


@pytest.mark.parametrize(
    ("first", "second", "k", "heads", "names", "teams"),
    [
        ("abcd", "bxyz", 4, False, "abcx", [0, 1, 0, 1]),
        ("abcd", "bxyz", 4, True, "baxc", [1, 0, 1, 0]),
        ("abc", "abc", 3, False, "abc", [0, 1, 0]),
        ("ab", "xyz", 10, False, "axbyz", [0, 1, 0, 1, 1]),
        ("", "xyz", 2, False, "xy", [1, 1]),
        ("a", "a", 5, True, "a", [1]),
        ("", "", 5, True, "", []),
    ],
)
def test_teams_take_turns_and_nobody_takes_what_is_there(
    first: str, second: str, k: int, heads: bool, names: str, teams: list[int]
) -> None:
    assert names_and_teams(first, second, k, lambda: heads) == (names, teams)


def test_each_place_is_as_likely_to_be_of_one_team_as_of_the_other() -> None:
    chance = random.Random(3)
    places: list[Counter[int]] = [Counter() for _ in range(6)]
    for _ in range(20_000):
        _, teams = names_and_teams("abcdefgh", "bqcrasdt", 6, lambda: chance.random() < 0.5)
        for place, team in enumerate(teams):
            places[place][team] += 1
    for place in places:
        assert abs(place[0] - 10_000) < 4 * (20_000 * 0.25) ** 0.5


def test_swapped_lists_with_swapped_coins_give_swapped_teams() -> None:
    chance = random.Random(5)
    for _ in range(200):
        first, second = ("".join(chance.sample("abcdefghij", 6)) for _ in range(2))
        coins = [chance.random() < 0.5 for _ in range(20)]
        names, teams = names_and_teams(first, second, 6, iter(coins).__next__)
        swapped, others = names_and_teams(second, first, 6, iter([not coin for coin in coins]).__next__)
        assert (names, teams) == (swapped, [1 - team for team in others])


HELD_OUT = 0.3


def interleaving() -> Decisions:
    """Decisions of an experiment of two models that rank nothing, in a service that holds out `HELD_OUT`."""
    arms = [{"name": name, "model": "m", "version": name} for name in "ab"]
    changed = Changed(
        record(experiment(arms=arms, mode="interleave", unit="request", policy={"kind": "fixed_split"})),
        Change("create", "test"),
    )
    live = LiveExperiment(changed)
    live.apply(Offset(1, 0), changed)
    replica = Replica()
    replica.restore(live)
    model = SimpleNamespace(scores={"items": []}, score=lambda *_, **__: {"items": []})
    models: Any = SimpleNamespace(get=lambda *_: model)
    keyring = Keyring({0: new_key(0)}, 10**12)
    decisions = Decisions(replica, models, 1, keyring, held_out=held_out_units("bandit_serve", HELD_OUT))
    decisions.deciders["e"].checks = (lambda request: None,)
    return decisions


def test_a_request_is_held_out_once_or_not_at_all() -> None:
    """Without a unit, chance says so: whoever asks it twice of one request may be told both."""

    async def reasons(n: int) -> Counter[str | None]:
        decisions, counted = interleaving(), Counter[str | None]()
        for _ in range(n):
            answer = decisions.predict("e", PredictRequest(k=3, features=[1.0]))
            counted[(answer if isinstance(answer, Predicted) else await answer).reason or None] += 1
        return counted

    counted = asyncio.run(reasons(4_000))
    assert set(counted) == {None, "holdout"}
    assert abs(counted["holdout"] - 4_000 * HELD_OUT) < 5 * (4_000 * HELD_OUT * (1 - HELD_OUT)) ** 0.5


def test_columns_are_never_of_lists() -> None:
    async def refused() -> None:
        decisions = interleaving()
        for _ in range(50):
            with pytest.raises(Conflict, match="interleaves"):
                await decisions.decide_columns("e", ["u1", "u2", "u3"], None)

    asyncio.run(refused())
