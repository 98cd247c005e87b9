"""Results as a table that fits a terminal of 80 columns."""

from __future__ import annotations

from msgspec import UNSET

from bandit_serve.cli.output import print_table, say
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results import ArmResult, Decision, GuardrailResult, MetricResult, Report

NONE = "–"
SRM = {
    "ok": "the split is as it was logged",
    "mismatch": "the split is not as it was logged: do not trust the comparisons",
    "insufficient": "too few observations to tell",
}


def print_results(report: Report, experiment: Experiment) -> None:
    """Prints the objective's table first, then the other metrics'."""
    say(f"{report.experiment} is {report.status}, as of {report.as_of}.")
    for metric in sorted(experiment.metrics, key=lambda metric: metric.role != "objective"):
        _print_metric(report, experiment, metric)
    p = "" if report.srm.p_value is None else f" (p = {p_text(report.srm.p_value)})"
    say(f"Sample ratio: {report.srm.verdict}{p}: {SRM[report.srm.verdict]}.")
    if experiment.missing == "zero":
        say(f"Pending: {report.pending} whose window has not closed.")
    if experiment.unit == "user":
        say(f"Crossovers: {report.crossovers} units that were later served another arm.")
    say(f"Decision: {_decision(report.decision)}.")
    say(f"Winner: {report.winner or 'none'}. {report.reason}")


def _decision(decision: Decision) -> str:
    text = decision.state.replace("_", " ")
    if decision.arm is not UNSET:
        text += f", {decision.arm}"
    return text if decision.since is UNSET else f"{text}, since {decision.since}"


def _print_metric(report: Report, experiment: Experiment, metric: Metric) -> None:
    level = f"{100 * (1 - experiment.stopping.alpha):g} %"
    about = f"{metric.name} ({metric.kind}, {metric.goal}, {metric.role})"
    say(f"\n{about}; intervals of {level}, valid at any time")
    print_table(
        ("Arm", "Share", "n", "Mean", "To control", "p", "P(best)"),
        [_row(arm, arm.metrics[metric.name], experiment) for arm in report.arms],
        numbers=("Share", "n", "Mean", "To control", "p", "P(best)"),
    )
    guarded = [(arm.name, arm.metrics[metric.name].guardrail) for arm in report.arms]
    if metric.is_guardrail:
        say("Guardrail: safe where the worst that the difference can be is within the margin.")
        print_table(
            ("Arm", "Verdict", "Margin", "At worst"),
            [
                (name, of.verdict, _number(of.margin), _number(of.bound, sign="+"))
                for name, of in guarded
                if isinstance(of, GuardrailResult)
            ],
            numbers=("Margin", "At worst"),
        )
    previews = [(arm.name, arm.metrics[metric.name].preview) for arm in report.arms]
    if any(preview is not None for _, preview in previews):
        say("Preview, not final: what is still open, by its rewards so far.")
        print_table(
            ("Arm", "Open", "Mean so far"),
            [
                (name, str(preview.n), f"{preview.mean:.4g}")
                for name, preview in previews
                if preview is not None
            ],
            numbers=("Open", "Mean so far"),
        )


def _row(arm: ArmResult, result: MetricResult, experiment: Experiment) -> tuple[str, ...]:
    is_control = arm.name == experiment.arm_names[experiment.control_arm]
    return (
        arm.name,
        f"{arm.share:.3f}",
        str(result.n),
        with_interval(result.mean, result.interval),
        "control" if is_control else with_interval(result.difference, result.difference_interval, sign="+"),
        NONE if result.p_value is None else p_text(result.p_value),
        NONE if result.probability_best is None else f"{result.probability_best:.3f}",
    )


def with_interval(value: float | None, interval: tuple[float, float] | None, sign: str = "") -> str:
    if value is None:
        return NONE
    text = f"{value:{sign}.4g}"
    return text if interval is None else f"{text}\n[{interval[0]:{sign}.3g}, {interval[1]:{sign}.3g}]"


def _number(value: float | None, sign: str = "") -> str:
    return NONE if value is None else f"{value:{sign}.4g}"


def p_text(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
