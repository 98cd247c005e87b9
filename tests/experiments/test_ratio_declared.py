"""Ratios and covariates in a configuration: which may be declared, and what is refused at which field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import experiment

from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.errors import InvalidInput

CLICK = {"name": "click", "kind": "binary"}
CLICKS = {"name": "clicks", "kind": "count"}
SPENT = {"name": "spent", "kind": "continuous"}
RATE = {"name": "rate", "kind": "ratio", "numerator": "spent", "denominator": "clicks"}
ALL = [CLICK, CLICKS, SPENT, RATE]


def test_what_is_taken() -> None:
    made = experiment(unit="user", metrics=[*ALL[:3], {**RATE, "goal": "minimize"}])
    assert [metric.is_ratio for metric in made.metrics] == [False, False, False, True]
    assert made.covariates == ()
    with_some = [{**CLICK, "covariate": "b"}, {**CLICKS, "covariate": "a"}, {**SPENT, "covariate": "b"}]
    assert experiment(metrics=with_some).covariates == ("b", "a")


def test_what_is_not_given_is_not_written() -> None:
    """Builds without these fields read logs of experiments that do not use them."""
    written = msgspec.to_builtins(experiment(metrics=[CLICK]))["metrics"][0]
    assert {"covariate", "numerator", "denominator"}.isdisjoint(written)


@pytest.mark.parametrize(
    ("metrics", "more", "at"),
    [
        ([*ALL[:3], {**RATE, "numerator": "nobody"}], {}, "metrics[3].numerator"),
        ([*ALL[:3], {**RATE, "denominator": "click"}], {}, "metrics[3].denominator"),
        ([*ALL[:3], {**RATE, "denominator": "rate"}], {}, "metrics[3].denominator"),
        ([*ALL[:3], {**RATE, "denominator": "spent"}], {}, "metrics[3].denominator"),
        ([*ALL[:3], {"name": "rate", "kind": "ratio", "numerator": "spent"}], {}, "metrics[3]"),
        ([*ALL[:3], {**RATE, "covariate": "before"}], {}, "metrics[3].covariate"),
        ([RATE, CLICKS, SPENT], {}, "metrics[0].role"),
        ([*ALL[:3], {**RATE, "low": 0, "high": 1}], {}, "metrics[3]"),
        (ALL, {"unit": "request"}, "metrics[3].kind"),
        ([CLICK, {**CLICKS, "numerator": "spent"}], {}, "metrics[1].numerator"),
    ],
)
def test_what_is_refused_is_named(metrics: list[dict[str, Any]], more: dict[str, Any], at: str) -> None:
    document = {"unit": "user", **more, "metrics": metrics}
    with pytest.raises(InvalidInput) as refused:
        experiment(**document)
    assert [error.at for error in refused.value.errors] == [at]
    arms = [{"name": "a"}, {"name": "b"}]
    whole = {"id": "e", "arms": arms, "attribution": {"missing": "ignore"}, **document}
    assert [error.at for error in every_mistake(whole)] == [at]
