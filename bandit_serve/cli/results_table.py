"""Results as tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType

from bandit_serve.cli.output import print_table, say
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results import AdjustedResult, GuardrailResult, MetricResult, Report, facts_of, p_text

NONE = "–"
INTERVALS = frozenset({"Mean", "To control", "Lift"})
Arm = tuple[str, MetricResult]


def print_results(report: Report, experiment: Experiment) -> None:
    """Prints the traffic, then the objective's tables, then those of the other metrics."""
    say(f"{report.experiment} is {report.status}, as of {report.as_of}.")
    print_table(
        ("Arm", "Share", "Decisions"),
        [(arm.name, f"{arm.share:.3f}", str(arm.exposures)) for arm in report.arms],
        numbers=("Share", "Decisions"),
    )
    control = experiment.arm_names[experiment.control_arm]
    for metric in sorted(experiment.metrics, key=lambda metric: metric.role != "objective"):
        arms = [(arm.name, arm.metrics[metric.name]) for arm in report.arms]
        _print_heading(metric, arms, experiment)
        _print_comparison(arms, control)
        _print_more(arms)
        _print_adjusted(metric, arms, control)
        _print_guardrail(metric, arms)
        _print_preview(arms)
    if sum(not metric.is_guardrail for metric in experiment.metrics) > 1:
        say("p all: adjusted over the arms of the objective and all secondary metrics.")
    say("P(best) and Loss, which is to be expected with an arm, are no tests.")
    for name, text in facts_of(report, experiment):
        say(f"{name}: {text}.")
    say(f"Winner: {report.winner or 'none'}. {report.reason}")


def _print_heading(metric: Metric, arms: Sequence[Arm], experiment: Experiment) -> None:
    level = f"{100 * (1 - experiment.stopping.alpha):g} %"
    of = "" if metric.quantile is UNSET else f"quantile {metric.quantile:g}, "
    say(
        f"\n{metric.name} ({metric.kind}, {of}{metric.goal}, {metric.role}); intervals of {level}, valid at any time"
    )
    for since in {result.since for _, result in arms if result.since is not UNSET}:
        say(f"It joined at {since}; decisions of before are not in it.")


def _print_comparison(arms: Sequence[Arm], control: str) -> None:
    rows = []
    corrected = any(result.p_value_corrected is not UNSET for _, result in arms)
    for name, result in arms:
        p = (result.p_value, result.p_value_corrected) if corrected else (result.p_value,)
        rows.append(
            (
                name,
                str(result.n),
                with_interval(result.mean, result.interval),
                "control"
                if name == control
                else with_interval(result.difference, result.difference_interval, sign="+"),
                *map(_p, p),
            )
        )
    head = ("Arm", "n", "Mean", "To control", "p", *(("p all",) if corrected else ()))
    print_table(head, rows, numbers=("n", "p", "p all"), intervals=INTERVALS)


def _print_more(arms: Sequence[Arm]) -> None:
    """Prints what is not a test: those columns that say something of any arm."""
    columns: dict[str, Iterable[str]] = {
        "Std": [number(result.std) for _, result in arms],
        "Lift": [_lift(result) for _, result in arms],
        "P(best)": [NONE if of.probability_best is None else f"{of.probability_best:.3f}" for _, of in arms],
        "Loss": [number(result.expected_loss, ".3g") for _, result in arms],
        "No cap": [number(None if of.raw_mean is UNSET else of.raw_mean) for _, of in arms],
    }
    known = {title: cells for title, cells in columns.items() if set(cells) != {NONE}}
    if known:
        rows = list(zip([name for name, _ in arms], *known.values(), strict=True))
        print_table(("Arm", *known), rows, numbers=known.keys() - INTERVALS, intervals=INTERVALS)


def _print_adjusted(metric: Metric, arms: Sequence[Arm], control: str) -> None:
    adjusted = [(name, of, of.adjusted) for name, of in arms if of.adjusted is not UNSET]
    if not adjusted:
        return
    say(
        f"Adjusted by {metric.covariate} (CUPED), theta {adjusted[0][2].theta:.4g}; the winner is that of raw values."
    )
    rows = []
    for name, raw, of in adjusted:
        rows += [_adjusted_row(name, "raw", raw, control), _adjusted_row("", "adjusted", of, control, name)]
    head = ("Arm", "Values", "Mean", "To control", "p")
    print_table(head, rows, numbers=("p",), whole=("Values",), intervals=INTERVALS)


def _adjusted_row(
    label: str, kind: str, of: MetricResult | AdjustedResult, control: str, name: str | None = None
) -> tuple[str, ...]:
    return (
        label,
        kind,
        with_interval(of.mean, of.interval),
        "control"
        if (name or label) == control
        else with_interval(of.difference, of.difference_interval, sign="+"),
        _p(of.p_value),
    )


def _print_guardrail(metric: Metric, arms: Sequence[Arm]) -> None:
    if not metric.is_guardrail:
        return
    say("Guardrail: safe where the worst that the difference can be is within the margin.")
    print_table(
        ("Arm", "Verdict", "Margin", "At worst"),
        [
            (name, of.verdict, number(of.margin), number(of.bound, "+.4g"))
            for name, of in ((name, result.guardrail) for name, result in arms)
            if isinstance(of, GuardrailResult)
        ],
        numbers=("Margin", "At worst"),
    )


def _print_preview(arms: Sequence[Arm]) -> None:
    previews = [(name, of.preview) for name, of in arms if of.preview is not None]
    if previews:
        say("Preview, not final: what is still open, by its rewards so far.")
        print_table(
            ("Arm", "Open", "Mean so far"),
            [(name, str(preview.n), f"{preview.mean:.4g}") for name, preview in previews],
            numbers=("Open", "Mean so far"),
        )


def with_interval(value: float | None, interval: tuple[float, float] | None, sign: str = "") -> str:
    if value is None:
        return NONE
    text = f"{value:{sign}.4g}"
    return text if interval is None else f"{text}\n[{interval[0]:{sign}.3g}, {interval[1]:{sign}.3g}]"


def number(value: float | None, form: str = ".4g") -> str:
    return NONE if value is None else f"{value:{form}}"


def _p(value: float | UnsetType | None) -> str:
    return p_text(value) if isinstance(value, float) else NONE


def _lift(result: MetricResult) -> str:
    if result.lift is None:
        return NONE
    ends = result.lift_interval
    text = f"{100 * result.lift:+.3g} %"
    return text if ends is None else f"{text}\n[{100 * ends[0]:+.3g}, {100 * ends[1]:+.3g}] %"
