"""Visits until interleaving, and an A/B test, say which of two models ranks better.

    OPENBLAS_NUM_THREADS=1 python benchmarks/interleaving.py ../ml-latest-small/ratings.csv

Visitors are users of the ratings, drawn anew each time. Each looks at a list of 10 from the top down, goes on to the
next place with probability .85, and clicks an item that it liked in the held-out latest tenth with probability .7, any
other with .03. The A/B test draws one model a visit and compares clicks a visit by the asymptotic sequence of
`results`, tuned for 5,000 visits; interleaving drafts one list of both and compares requests by the sign test of
`results`. Both look after every visit, at level .05. Medians over the runs, and how often the first to be named was
the one with the larger ndcg@10.
"""

from __future__ import annotations

import argparse
import random
from statistics import median
from typing import NamedTuple

import numpy as np

from bandit_serve.api.decisions import ScoredItem
from bandit_serve.decisions.interleaving import fair_coin, team_draft
from bandit_serve.models import LinearItems, Model, Popularity, WeightedALS
from bandit_serve.results.interleaving import EXPECTED_CONTESTS, Contests
from bandit_serve.results.sequence import mean_sequence
from bandit_serve.training import DataSet, read_dataset
from bandit_serve.training.metrics import ranking_metrics
from bandit_serve.training.splits import latest_of_each_user

K = 10
ALPHA = 0.05
GOES_ON, CLICKS_LIKED, CLICKS_OTHER = 0.85, 0.7, 0.03
MIN_VISITS = 50
"""Of each arm, before the A/B test names anything, as in `results`."""


class Visitor(NamedTuple):
    """Lists of both models for a user, and what it liked of what was held out."""

    lists: tuple[list[ScoredItem], list[ScoredItem]]
    liked: frozenset[str]


def visitors(data: DataSet, models: tuple[Model, Model]) -> tuple[list[Visitor], list[float]]:
    train, test = latest_of_each_user(data.ratings.users, data.ratings.timestamps, 0.1)
    rated, held_out = data.take(train), data.take(test)
    liked_from = data.ratings.liked_from
    for model in models:
        ratings = rated.ratings
        model.fit(ratings.users.astype(np.int64), ratings.items.astype(np.int64), ratings.values)
    ndcg = [ranking_metrics(model, rated, held_out, K, liked_from)[f"ndcg@{K}"] for model in models]
    likes = held_out.ratings.values >= liked_from
    made = []
    for user in np.unique(held_out.ratings.users).astype(np.int64).tolist():
        of_user = held_out.ratings.users.astype(np.int64) == user
        seen = rated.ratings.items[rated.ratings.users.astype(np.int64) == user].astype(np.int64).tolist()
        first, second = (
            [ScoredItem(str(item), score) for item, score in model.top_k(user, k=K, exclude=seen)]
            for model in models
        )
        liked = held_out.ratings.items[of_user & likes].astype(np.int64).tolist()
        made.append(Visitor((first, second), frozenset(map(str, liked))))
    return made, ndcg


def clicked(items: list[ScoredItem], liked: frozenset[str], chance: random.Random) -> list[int]:
    """Places that a visitor clicks."""
    places = []
    for place, item in enumerate(items):
        if chance.random() < (CLICKS_LIKED if item.item_id in liked else CLICKS_OTHER):
            places.append(place)
        if chance.random() >= GOES_ON:
            break
    return places


def split(people: list[Visitor], chance: random.Random, most: int) -> tuple[int, int | None]:
    """Visits of an A/B test until it names an arm, and which."""
    n, total, square = [0, 0], [0.0, 0.0], [0.0, 0.0]
    for visit in range(1, most + 1):
        who, arm = chance.choice(people), chance.randrange(2)
        clicks = len(clicked(who.lists[arm], who.liked, chance))
        n[arm] += 1
        total[arm] += clicks
        square[arm] += clicks * clicks
        if min(n) < MIN_VISITS:
            continue
        means = [total[k] / n[k] for k in (0, 1)]
        variance = sum((square[k] - n[k] * means[k] ** 2) / (n[k] - 1) / n[k] for k in (0, 1))
        difference = means[1] - means[0]
        if variance > 0.0 and abs(difference) > mean_sequence(visit, difference, variance).half_width(ALPHA):
            return visit, int(difference > 0)
    return most, None


def interleave(people: list[Visitor], chance: random.Random, most: int) -> tuple[int, int | None]:
    """Visits with interleaved lists until the sign test names an arm, and which."""
    contests = Contests(ALPHA, EXPECTED_CONTESTS)
    for visit in range(1, most + 1):
        who = chance.choice(people)
        drafted = team_draft(who.lists, K, fair_coin)
        places = clicked([each.item for each in drafted], who.liked, chance)
        lead = sum(1 if drafted[place].team else -1 for place in places)
        if lead:
            contests.wins[lead > 0] += 1
            named = contests.winner()
            if named is not None:
                return visit, named
    return most, None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratings", help="ratings.csv of MovieLens")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--most", type=int, default=100_000, help="visits after which a test gives up")
    asked = parser.parse_args()
    data = read_dataset(asked.ratings)
    pairs: dict[str, tuple[Model, Model]] = {
        "popularity, linear_items": (Popularity(), LinearItems(seed=0)),
        "linear_items of 4 factors, of 48": (LinearItems(n_factors=4, seed=0), LinearItems(seed=0)),
        "weighted_als of 4 factors, linear_items": (WeightedALS(n_factors=4, seed=0), LinearItems(seed=0)),
    }
    print(f"{asked.runs} runs, k {K}\n")
    print(
        "| models | ndcg@10 | A/B visits | right | interleaved visits | right | part |\n|---|---|---|---|---|---|---|"
    )
    for name, models in pairs.items():
        people, ndcg = visitors(data, models)
        better = int(ndcg[1] > ndcg[0])
        figures = []
        for play in (split, interleave):
            ends = [play(people, random.Random(run), asked.most) for run in range(asked.runs)]
            right = sum(named == better for _, named in ends) / asked.runs
            figures.append((median(visits for visits, _ in ends), right))
        (ab, ab_right), (mixed, mixed_right) = figures
        print(
            f"| {name} | {ndcg[0]:.4f}, {ndcg[1]:.4f} | {ab:,.0f} | {ab_right:.2f} | {mixed:,.0f} | "
            f"{mixed_right:.2f} | {mixed / ab:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
