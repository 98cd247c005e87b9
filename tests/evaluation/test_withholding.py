"""Arms without a chance: withheld by the policy of the time, or not there to choose for anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit_serve.evaluation.candidates import of_policy
from bandit_serve.evaluation.decisions import DecisionCollector, LoggedDecisions
from bandit_serve.evaluation.evaluation import CandidateValue, EvaluationOptions, evaluate
from bandit_serve.evaluation.learning import LearningPolicy, LearningValue, evaluate_learning
from bandit_serve.evaluation.stored import StoredDecisions
from bandit_serve.evaluation.withholding import Masks, Withholding
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Record, Standing
from bandit_serve.experiments.withholding import withheld_arms
from bandit_serve.export.layout import RecordLayout
from bandit_serve.export.rows import ExportRows
from bandit_serve.results.off_policy.learning import ReplayOptions

RATES = np.array([0.2, 0.6])
HALF = 3_000
MAX_ERRORS = 3.5
EVEN = PolicySpec(kind="fixed_split", shares={"a": 0.5, "b": 0.5})
ALONE = PolicySpec(kind="fixed_split", shares={"a": 1.0, "b": 0.0})
THOMPSON = PolicySpec(kind="thompson")


def experiment(policy: PolicySpec, **others: Any) -> Experiment:
    arms, metrics = (Arm("a"), Arm("b")), (Metric("click", kind="binary"),)
    about = Experiment(
        id="withheld", arms=arms, metrics=metrics, policy=policy, attribution=Attribution("1h", "ignore")
    )
    return validated(msgspec.structs.replace(about, **others))


def record(policy: PolicySpec, revision: int = 1, **others: Any) -> Record:
    return Record(experiment(policy), 1, "running", revision, 0, 0, **others)


def rows(revision: int, shares: list[float], there: int = 2, n: int = HALF) -> ExportRows:
    """Decisions of one revision, drawn from shares; of arms beyond `there` it knows nothing."""
    random, decisions = np.random.default_rng(revision), np.zeros(n, RecordLayout(0).decision)
    decisions["time_ms"] = 1_000_000 * revision + np.arange(n)
    decisions["unit"] = 10_000 * revision + np.arange(n)
    decisions["arm"] = random.random(n) > shares[0]
    decisions["propensity"] = np.array(shares)[decisions["arm"]]
    decisions["n_shares"], decisions["revision"] = there, revision
    values = (random.random(n) < RATES[decisions["arm"]]).astype(float)
    return ExportRows(decisions, np.tile(shares, (n, 1)), values[None], np.zeros((1, n), np.int64))


def standing(now: Experiment, parts: list[ExportRows], known: Masks, asked: PolicySpec) -> CandidateValue:
    collector = DecisionCollector(now, "click")
    for part in parts:
        collector.add(_copied(part), np.ones(len(part.decisions), np.bool_))
    withholding, decisions = Withholding(now, known), collector.collected()
    withholding.add(decisions)
    settled: LoggedDecisions = withholding.settled(decisions)
    options = EvaluationOptions(interval="normal")
    (found,) = evaluate(now, now.objective, settled, [of_policy("it", asked, now)], options).policies
    return found


def learning(
    now: Experiment, parts: list[ExportRows], known: Masks, asked: PolicySpec, folder: Path
) -> LearningValue:
    decisions = StoredDecisions(now, "click", folder)
    for part in parts:
        decisions.add(_copied(part), np.ones(len(part.decisions), np.bool_))
    decisions.finish()
    decisions.withholding.known = known
    policy = LearningPolicy("it", asked, now)
    (found,) = evaluate_learning(now, decisions, [policy], ReplayOptions(horizon=100)).policies
    return found


def _copied(part: ExportRows) -> ExportRows:
    return ExportRows._make(column.copy() for column in part)


@pytest.mark.parametrize("is_known", [True, False], ids=["log", "export"])
def test_what_a_former_policy_withheld_is_not_excused(tmp_path: Path, is_known: bool) -> None:
    now = experiment(THOMPSON)
    known = {1: withheld_arms(record(ALONE)), 2: withheld_arms(record(THOMPSON))} if is_known else {}
    parts = [rows(1, [1.0, 0.0]), rows(2, [0.5, 0.5])]
    assert "no chance" in str(standing(now, parts, known, EVEN).refusal)
    for asked in (EVEN, THOMPSON):
        assert f"'b' no chance in {HALF:,} of {2 * HALF:,}" in str(
            learning(now, parts, known, asked, tmp_path).refusal
        )
        (tmp_path / "decisions").unlink()


@pytest.mark.parametrize("is_known", [True, False], ids=["log", "export"])
def test_an_arm_that_came_later_is_excused_and_told(tmp_path: Path, is_known: bool) -> None:
    """The experiment ends as a fixed split, whose shares say nothing of the time before the arm was there."""
    now = experiment(EVEN)
    known = {1: np.zeros(1, np.bool_), 2: withheld_arms(record(EVEN))} if is_known else {}
    parts = [rows(1, [1.0, 0.0], there=1), rows(2, [0.5, 0.5])]
    alone = standing(now, parts, known, EVEN)
    for found in (alone, learning(now, parts, known, EVEN, tmp_path)):
        assert found.refusal is None
        assert f"'b' in {HALF:,} of {2 * HALF:,} decisions" in found.warnings[0]
    # Half of the time `a` is all that there is.
    estimate = alone.estimates["dr"]
    assert abs(estimate.value - RATES @ [0.75, 0.25]) < MAX_ERRORS * estimate.standard_error


def test_a_paused_arm_is_excused_where_the_log_says_so(tmp_path: Path) -> None:
    now, paused = experiment(EVEN), (Standing(), Standing(status="paused"))
    parts = [rows(1, [1.0, 0.0]), rows(2, [0.5, 0.5])]
    known = {1: withheld_arms(record(ALONE, standings=paused)), 2: withheld_arms(record(EVEN))}
    for said, is_refused in ((known, False), ({}, True)):
        folder = tmp_path / str(is_refused)
        folder.mkdir()
        for found in (standing(now, parts, said, EVEN), learning(now, parts, said, EVEN, folder)):
            assert (found.refusal is not None) == is_refused


@pytest.mark.parametrize(
    ("policy", "withheld"),
    [
        (ALONE, [False, True]),
        (EVEN, [False, False]),
        (PolicySpec(kind="fixed_split"), [False, False]),
        (PolicySpec(kind="fixed_split", shares={"a": 1.0}, holdout=0.1), [False, False]),
        (THOMPSON, [False, False]),
        (PolicySpec(kind="thompson", min_share=0.0), [True, True]),
    ],
)
def test_arms_that_a_record_withholds(policy: PolicySpec, withheld: list[bool]) -> None:
    assert withheld_arms(record(policy)).tolist() == withheld


def test_units_that_keep_arms_keep_what_was_withheld_from_them() -> None:
    now = experiment(THOMPSON, unit="user", keep_assigned=True)
    known = {1: withheld_arms(record(ALONE)), 2: withheld_arms(record(THOMPSON))}
    mixed = [rows(2, [1.0, 0.0]), rows(3, [0.5, 0.5])]
    assert "no chance" in str(standing(now, mixed, {**known, 3: known[2]}, EVEN).refusal)
    other = experiment(THOMPSON, unit="user")
    assert standing(other, mixed, {**known, 3: known[2]}, EVEN).refusal is None


def test_a_split_that_leaves_an_arm_out_has_the_same_answer_while_it_learns(tmp_path: Path) -> None:
    now = experiment(ALONE)
    known = {1: withheld_arms(record(ALONE))}
    parts = [rows(1, [1.0, 0.0])]
    for found in (standing(now, parts, known, ALONE), learning(now, parts, known, ALONE, tmp_path)):
        assert (found.refusal, found.warnings) == (None, [])
        estimate = found.estimates["dr"]
        assert abs(estimate.value - RATES[0]) < MAX_ERRORS * estimate.standard_error


@pytest.mark.parametrize("keeps", [True, False])
def test_kept_units_are_accepted_as_often_as_they_come(tmp_path: Path, keeps: bool) -> None:
    """Old units are drawn from .9 and .1 and have rewards of .6, new ones evenly of .2, in turns."""
    now = experiment(THOMPSON, unit="user", **({"keep_assigned": True} if keeps else {}))
    n, random = 20_000, np.random.default_rng(4)
    old = random.random(n) < 0.5
    part = rows(1, [0.5, 0.5], n=n)
    part.shares[old] = [0.9, 0.1]
    part.decisions["arm"] = random.random(n) > part.shares[:, 0]
    part.decisions["propensity"] = part.shares[np.arange(n), part.decisions["arm"]]
    part.values[0] = random.random(n) < np.where(old, 0.6, 0.2)
    found = learning(now, [part], {}, EVEN, tmp_path)
    for estimate in found.estimates.values():
        off = (estimate.value - 0.4) / estimate.standard_error
        # Without, shares would be taken to go by the past alone: new units would be accepted more often.
        assert abs(off) < MAX_ERRORS if keeps else off < -MAX_ERRORS
