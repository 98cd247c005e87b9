"""Facts of a report in words."""

from __future__ import annotations

import msgspec
import pytest
from full_results import full_fold
from simulated_results import record

from bandit_serve.experiments.spec import Experiment
from bandit_serve.results import Decision, Report, ResultsFold, facts_of, report
from bandit_serve.results.interleaving import InterleavingResult
from bandit_serve.results.report import SampleRatio


def empty(**about: object) -> tuple[Report, Experiment]:
    fold = ResultsFold(record(2, **about))  # type: ignore[arg-type]
    return report(fold, fold.record, {}, 0), fold.record.experiment


def facts(of: Report, experiment: Experiment, **changed: object) -> dict[str, str]:
    return dict(facts_of(msgspec.structs.replace(of, **changed), experiment))


def test_facts_of_nothing_say_only_what_there_is() -> None:
    assert facts(*empty()) == {
        "Sample ratio": "insufficient: too few observations to tell",
        "Decision": "undecided",
    }


def test_what_is_open_and_who_crossed_over_is_told_where_it_can_be() -> None:
    told = facts(*empty(missing="zero", unit="user"), pending=1_234, crossovers=5)
    assert told["Pending"] == "1,234 whose window has not closed"
    assert told["Crossovers"] == "5 units that were later served another arm"


@pytest.mark.parametrize(
    ("decision", "decided", "to_go"),
    [
        (
            Decision("winner", "b", "2026-01-02T03:04:05.000Z"),
            "winner, b, since 2026-01-02T03:04:05.000Z",
            None,
        ),
        (Decision("no_difference"), "no difference", None),
        (Decision("undecided", samples_to_go=12_345), "undecided", "about 12,345 observations"),
        (
            Decision("undecided", samples_to_go=0, days_to_go=0.0),
            "undecided",
            "about 0 observations, 0 days at the traffic so far",
        ),
        (
            Decision("undecided", samples_to_go=9, days_to_go=1.26),
            "undecided",
            "about 9 observations, 1.3 days at the traffic so far",
        ),
        (
            Decision("undecided", samples_to_go=9, days_to_go=1_234.4),
            "undecided",
            "about 9 observations, 1,234 days at the traffic so far",
        ),
    ],
)
def test_the_decision_has_what_is_to_go(decision: Decision, decided: str, to_go: str | None) -> None:
    told = facts(*empty(), decision=decision)
    assert (told["Decision"], told.get("To go")) == (decided, to_go)


def test_contests_are_told_by_who_won() -> None:
    contests = InterleavingResult({"a": 12, "b": 1_015}, 3, 2, 0.98829, (0.9712, 0.9987), 0.0001)
    told = facts(*empty(), interleaving=contests)
    assert told["Contests"] == "a won 12, b won 1,015; 3 ties, 2 pending"
    assert told["Win rate"] == "0.9883 of b, between 0.9712 and 0.9987 (p = <0.001)"
    none = InterleavingResult({"a": 0, "b": 0}, 0, 0, None, None, None)
    assert "Win rate" not in facts(*empty(), interleaving=none)


def test_a_split_that_is_off_is_told_with_its_p() -> None:
    told = facts(*empty(), srm=SampleRatio(0.0042, "mismatch"))
    assert told["Sample ratio"].startswith("mismatch (p = 0.004): the split is not as it was logged")


def test_facts_of_a_fold_are_those_of_its_report() -> None:
    fold = full_fold(2, 6)
    made = report(fold, fold.record, {}, fold.now_ms)
    told = facts(made, fold.record.experiment)
    assert made.pending > 0
    assert told["Pending"].startswith(f"{made.pending:,} ")
    assert isinstance(made.decision.samples_to_go, int) == ("To go" in told)
