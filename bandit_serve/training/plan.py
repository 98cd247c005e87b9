"""Plan of a training run: described in a file, by flags, or in Python."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Struct, field

from bandit_serve.base.names import is_name
from bandit_serve.base.validation import invalid
from bandit_serve.errors import InvalidInput
from bandit_serve.models.family import BASELINES, FAMILIES
from bandit_serve.models.ranges import LogUniform, Space, Uniform, Whole
from bandit_serve.training.columns import RatingColumns
from bandit_serve.training.gates import Gate
from bandit_serve.training.metrics import RATING_METRICS, is_better
from bandit_serve.training.retraining import Retraining
from bandit_serve.training.space import check_space

METRICS = ("rmse", "mae", "precision", "recall", "ndcg", "coverage")
RANKING_METRICS = ("precision", "recall", "ndcg")
RANGES = {"uniform": Uniform, "loguniform": LogUniform, "whole": Whole}

# The smallest error may be that of items which few have rated: whose k best are no better than the most popular items
# is no recommender. What was not measured is not asked for: errors of scores that are no ratings, and rankings where
# nothing held out was liked.
DEFAULT_GATES: dict[Literal["staging", "production"], str] = {
    "staging": "not rmse >= baseline.rmse and not ndcg@k <= baseline.ndcg@k and not ndcg@k <= popular.ndcg@k"
}


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """Source of the ratings: a file, or `log`, the name of an experiment whose rewards are ratings."""

    path: str | None = None
    items: str | None = None
    users: str | None = None
    columns: RatingColumns | None = None
    log: str | None = None


class Split(Struct, frozen=True, forbid_unknown_fields=True):
    """Split to measure versions on: `folds` at random, or the last `share` of each user's ratings in time."""

    kind: Literal["random", "time"] = "random"
    folds: int = 5
    share: float = 0.1


class Search(Struct, frozen=True, forbid_unknown_fields=True):
    """Search over `trials` combinations of each family, at random or all of a grid, each on a part of `share`.

    `jobs` processes work through joblib's `backend`; `scheduler` is the address of a dask or ray cluster.
    """

    kind: Literal["random", "grid"] = "random"
    trials: int = 6
    share: float = 0.1
    jobs: int = 2
    backend: Literal["loky", "threading", "sequential", "dask", "ray"] = "loky"
    scheduler: str | None = None


class Measured(Protocol):
    """Version of a family, with its metrics."""

    @property
    def family(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...


M = TypeVar("M", bound=Measured)


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """Training run. `families`: hyper-parameters of each family, values to choose from, or ranges.

    A range is `{"kind": "uniform" | "loguniform" | "whole", "low": …, "high": …}`. `gates`: conditions of `staging`
    and `production` (`gates.py`), in which `@k` stands for the plan's k. `metric` is what the search looks at and what
    "worse" means; where it is an error of ratings, `ndcg` takes its place for families whose scores are none.
    `relevant_from`: the rating from which on an item is liked; by default what about the upper half of all ratings
    reach (`Ratings.liked_from`). `retrain`: when `bandit-serve retrain` repeats the run.
    """

    data: Data = Data()
    families: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {name: {} for name, kind in FAMILIES.items() if kind.trained_by_default}
    )
    split: Split = Split()
    search: Search = Search()
    gates: dict[Literal["staging", "production"], str] = field(default_factory=lambda: dict(DEFAULT_GATES))
    metric: str = "rmse"
    k: int = 10
    relevant_from: float | None = None
    seed: int = 0
    model: str = "recommender"
    tracking: str | None = None
    retrain: Retraining | None = None

    @property
    def measures_rankings(self) -> bool:
        return self.metric not in RATING_METRICS

    def measured(self, family: str) -> str:
        """Whole name of the metric that a family is searched by, as in `ndcg@10`."""
        metric = self.metric
        if not (self.measures_rankings or FAMILIES[family].scores_are_ratings):
            metric = "ndcg"
        return f"{metric}@{self.k}" if metric in RANKING_METRICS else metric

    @property
    def metric_names(self) -> set[str]:
        """Names of all metrics that a family and the ones to beat may have."""
        own = {f"{metric}@{self.k}" if metric in RANKING_METRICS else metric for metric in METRICS}
        measured = own | {f"time.{name}" for name in own}
        of_baselines = {f"{baseline}.{name}" for baseline in BASELINES for name in measured}
        return measured | {"time.gain", "time.gain_z"} | of_baselines

    def best(self, versions: Collection[M]) -> M | None:
        """Best version on what its family was searched by, or on `ndcg` where those differ; None without any."""
        searched_by = {self.measured(each.family) for each in versions if each.family in FAMILIES}
        metric = searched_by.pop() if len(searched_by) == 1 else f"ndcg@{self.k}"
        best = None
        for each in versions:
            if metric in each.metrics and (
                best is None or is_better(metric, each.metrics[metric], best.metrics[metric])
            ):
                best = each
        return best

    def space(self, family: str) -> Space:
        """Search space of a family: the plan's, or else the one that it declares."""
        return self.families[family] or FAMILIES[family].search_space

    def gate(self, status: Literal["staging", "production"]) -> Gate | None:
        text = self.gates.get(status)
        return None if text is None else Gate(re.sub(r"@k\b", f"@{self.k}", text))


def read_plan(document: Any) -> Plan:
    """Plan from a document. `InvalidInput` with the place for what does not belong in it."""
    try:
        plan = msgspec.convert(document, Plan)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    families = {family: _ranges(family, space) for family, space in plan.families.items()}
    plan = msgspec.structs.replace(plan, families=families)
    check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Raise `InvalidInput` for a plan that can not be carried out."""
    if not plan.families:
        raise InvalidInput(f"families: expected at least one of {', '.join(FAMILIES)}.")
    for family, space in plan.families.items():
        if family not in FAMILIES:
            raise InvalidInput(f"families: expected {', '.join(FAMILIES)}, not {family!r}.")
        check_space(space, FAMILIES[family].hyper_parameters, f"families.{family}")
    if plan.metric.partition("@")[0] not in METRICS:
        raise InvalidInput(f"metric: expected one of {', '.join(METRICS)}, not {plan.metric!r}.")
    if "@" in plan.metric and plan.metric.partition("@")[2] != str(plan.k):
        raise InvalidInput(f"metric: {plan.metric!r} does not go with k = {plan.k}.")
    for name, value, low, high in (
        ("split.folds", plan.split.folds, 2, 100),
        ("search.trials", plan.search.trials, 1, 10_000),
        ("search.jobs", plan.search.jobs, 1, 10_000),
        ("k", plan.k, 1, 1_000),
        ("seed", plan.seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise InvalidInput(f"{name}: expected a whole number from {low} to {high}.")
    for name, share in (("split.share", plan.split.share), ("search.share", plan.search.share)):
        if not 0.0 < share < 1.0:
            raise InvalidInput(f"{name}: expected a number between 0 and 1.")
    if not is_name(plan.model):
        raise InvalidInput(f"model: {plan.model!r} is not a name.")
    for status in plan.gates:
        gate = plan.gate(status)
        assert gate is not None
        gate.require_known(plan.metric_names, any_current=True)
    if plan.retrain is not None:
        plan.retrain.check()
        if plan.retrain.gated is not None and "production" in plan.gates:
            raise InvalidInput(
                "retrain.gated: expected either this or a gate of production, a way of its own."
            )


def _ranges(family: str, space: dict[str, Any]) -> dict[str, Any]:
    """Space with its ranges read."""
    read = {}
    for name, value in space.items():
        if isinstance(value, dict) and value.get("kind") in RANGES:
            try:
                value = msgspec.convert(value, RANGES[value["kind"]])
            except msgspec.ValidationError as error:
                raise InvalidInput(f"families.{family}.{name}: {error}.") from None
        read[name] = value
    return read
