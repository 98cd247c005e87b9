"""Facts of a report in words, for people: its decision, its traffic, and what is open."""

from __future__ import annotations

from msgspec import UNSET

from bandit_serve.experiments.spec import Experiment
from bandit_serve.results.decision import Decision
from bandit_serve.results.interleaving import InterleavingResult
from bandit_serve.results.report import Report, SampleRatio
from bandit_serve.results.tradeoff_result import ConstraintResult, TradeoffResult

Fact = tuple[str, str]
SRM = {
    "ok": "the split is as it was logged",
    "mismatch": "the split is not as it was logged: do not trust the comparisons",
    "insufficient": "too few observations to tell",
}


def facts_of(report: Report, experiment: Experiment) -> list[Fact]:
    """Names and texts, those left out that say nothing of this experiment."""
    facts = [("Sample ratio", _sample_ratio(report.srm))]
    if experiment.missing == "zero":
        facts.append(("Pending", f"{report.pending:,} whose window has not closed"))
    if experiment.unit == "user":
        facts.append(("Crossovers", f"{report.crossovers:,} units that were later served another arm"))
    if report.interleaving is not UNSET:
        facts += _interleaving(report.interleaving, experiment)
    if report.tradeoff is not UNSET:
        facts += _tradeoff(report.tradeoff)
    facts.append(("Decision", _decision(report.decision)))
    to_go = _to_go(report.decision)
    return facts if to_go is None else [*facts, ("To go", to_go)]


def _tradeoff(tradeoff: TradeoffResult) -> list[Fact]:
    facts = [("Constraint", _constraint(each)) for each in tradeoff.constraints]
    if len(tradeoff.weights) > 1:
        terms = " + ".join(f"{weight:g} {name}" for name, weight in tradeoff.weights.items())
        value = "not known yet" if tradeoff.value is None else f"{tradeoff.value:.4g} by the current shares"
        facts.insert(0, ("Weighted sum", f"{terms}: {value}"))
    return facts


def _constraint(result: ConstraintResult) -> str:
    bound = f"at least {result.at_least}" if result.at_most is UNSET else f"at most {result.at_most}"
    said = f"{result.metric} {bound}"
    if result.mean is None or result.se is None:
        return f"{said}: not known yet"
    kept = "kept" if result.met else "not kept"
    price = "no shares keep it" if result.price is None else f"price {result.price:.3g}"
    return f"{said}: {kept} by the current shares, at {result.mean:.4g} ± {result.se:.2g}; {price}"


def p_text(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _sample_ratio(srm: SampleRatio) -> str:
    p = "" if srm.p_value is None else f" (p = {p_text(srm.p_value)})"
    return f"{srm.verdict}{p}: {SRM[srm.verdict]}"


def _decision(decision: Decision) -> str:
    text = decision.state.replace("_", " ")
    if decision.arm is not UNSET:
        text += f", {decision.arm}"
    return text if decision.since is UNSET else f"{text}, since {decision.since}"


def _to_go(decision: Decision) -> str | None:
    """How long it takes, if arms go on to differ as they do; None where that is not known."""
    if decision.samples_to_go is UNSET:
        return None
    text = f"about {decision.samples_to_go:,} observations"
    if decision.days_to_go is UNSET:
        return text
    days = decision.days_to_go
    return f"{text}, {f'{days:,.0f}' if days >= 10.0 else f'{days:.2g}'} days at the traffic so far"


def _interleaving(contests: InterleavingResult, experiment: Experiment) -> list[Fact]:
    won = ", ".join(f"{arm} won {wins:,}" for arm, wins in contests.wins.items())
    facts = [("Contests", f"{won}; {contests.ties:,} ties, {contests.pending:,} pending")]
    if contests.win_rate is None:
        return facts
    other = experiment.arm_names[1 - experiment.control_arm]
    text = f"{contests.win_rate:.4g} of {other}"
    if contests.interval is not None:
        text += f", between {contests.interval[0]:.4g} and {contests.interval[1]:.4g}"
    return [
        *facts,
        ("Win rate", text if contests.p_value is None else f"{text} (p = {p_text(contests.p_value)})"),
    ]
