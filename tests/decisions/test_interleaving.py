"""Drafting of one list from two."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bandit_serve.api.decisions import ScoredItem
from bandit_serve.decisions.interleaving import team_draft


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
