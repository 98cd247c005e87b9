"""Summary of a demo: figures for programs, and two sentences for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from bandit_serve.demo.display import difference_text, percent_text
from bandit_serve.demo.experiment import METRIC, MODEL, DemoExperiment
from bandit_serve.demo.ratings import RatingsSource
from bandit_serve.demo.traffic import Tally

if TYPE_CHECKING:
    from bandit_serve.client import ArmResult, Results

Interval = tuple[float, float]


class DataSummary(Struct, frozen=True):
    """Ratings of the demo. `why` is the reason if they are made up."""

    kind: str
    name: str
    why: str | None
    users: int
    items: int
    ratings: int


class ArmSummary(Struct, frozen=True):
    """Figures of an arm.

    `visits` is the demo's own count, all else but `true_mean` is from the service's results. `share` is the current
    one. `true_mean` is the mean over all visits, had each got this arm. `difference` is to control, null for control;
    an interval is null where none is valid.
    """

    arm: str
    model: str
    version: str
    visits: int
    share: float
    share_of_last_fifth: float
    rewards: int
    mean: float | None
    interval: Interval | None
    true_mean: float
    difference: float | None
    difference_interval: Interval | None
    p_value: float | None
    probability_best: float | None


class Summary(Struct, frozen=True):
    """Figures of a demo.

    `won` is the arm with the largest share of the last fifth of visits, `best` the one with the highest true mean.
    `regret`, in rewards, is the expected loss against every visit on the best arm. `url` is the service's while it
    stays up, otherwise null.
    """

    data: DataSummary
    seed: int
    experiment: str
    control: str
    visits: int
    requests: int
    requests_per_second: float
    traffic_seconds: float
    arms: tuple[ArmSummary, ...]
    won: str
    best: str
    regret: float
    regret_of_even_split: float
    reason: str
    url: str | None

    def arm(self, name: str) -> ArmSummary:
        return next(arm for arm in self.arms if arm.arm == name)


def summarize(
    source: RatingsSource,
    experiment: DemoExperiment,
    tally: Tally,
    results: Results,
    *,
    seed: int,
    traffic_s: float,
    url: str | None,
) -> Summary:
    """Makes the summary. `results` are those of the service after the last reward."""
    last_fifth = tally.last_fifth()
    arms = tuple(
        _arm(arm, tally, i, float(last_fifth[i]), experiment.versions[i])
        for i, arm in enumerate(results.arms)
    )
    return Summary(
        data=DataSummary(
            source.kind, source.name, source.why, source.n_users, source.n_items, len(source.ratings)
        ),
        seed=seed,
        experiment=experiment.name,
        control=experiment.arms[0],
        visits=tally.done,
        requests=2 * tally.done,
        requests_per_second=2 * tally.done / traffic_s,
        traffic_seconds=traffic_s,
        arms=arms,
        won=max(arms, key=lambda arm: arm.share_of_last_fifth).arm,
        best=experiment.arms[tally.best],
        regret=tally.regret,
        regret_of_even_split=tally.regret_of_even_split,
        reason=results.reason,
        url=url,
    )


def _arm(result: ArmResult, tally: Tally, number: int, last_fifth: float, version: str) -> ArmSummary:
    metric = result.metrics[METRIC]
    return ArmSummary(
        arm=result.name,
        model=MODEL,
        version=version,
        visits=int(tally.visits[number]),
        share=result.share,
        share_of_last_fifth=last_fifth,
        rewards=metric.n,
        mean=metric.mean,
        interval=metric.interval,
        true_mean=float(tally.true_means[number]),
        difference=metric.difference,
        difference_interval=metric.difference_interval,
        p_value=metric.p_value,
        probability_best=metric.probability_best,
    )


def winner_sentence(summary: Summary) -> str:
    won = summary.arm(summary.won)
    share = f"{won.arm} won: its share of the last fifth was {percent_text(won.share_of_last_fifth)}"
    if won.difference is None:
        ending = "it is the control, and no other arm took the traffic from it."
    elif won.difference_interval is None:
        ending = f"{won.difference:+.3f} over {summary.control}, with too few visits for an interval."
    else:
        sure = (
            "" if won.difference_interval[0] > 0 else "; the interval still holds 0: more visits would tell"
        )
        text = difference_text(won.difference, won.difference_interval)
        ending = f"{text} over {summary.control}{sure}."
    return f"{share}, {ending}"


def regret_sentence(summary: Summary) -> str:
    truly = (
        "which is the best arm by its true mean"
        if summary.won == summary.best
        else f"{summary.best} truly is best"
    )
    return (
        f"Finding {summary.won}, {truly}, cost {summary.regret:,.0f} likes in {summary.visits:,} visits; "
        f"an even split would have cost {summary.regret_of_even_split:,.0f}."
    )
