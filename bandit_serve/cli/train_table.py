"""Table that compares trained models."""

from __future__ import annotations

from bandit_serve.cli.output import Cell, print_table, say
from bandit_serve.training.pipeline import TrainingResult
from bandit_serve.training.plan import Plan


def print_result(result: TrainingResult, plan: Plan) -> None:
    """Prints a line for each baseline and each family, what is best, and the figures on the latest ratings."""
    names = ["rmse", "mae", f"precision@{plan.k}", f"recall@{plan.k}", f"ndcg@{plan.k}", "coverage"]
    if plan.split.kind == "random":
        how = f"{plan.split.folds} random folds, ± the standard error over them"
    else:
        how = f"the last {plan.split.share:.0%} of each user's ratings"
    say(f"\nOn {how}:")
    lines: list[tuple[Cell, ...]] = []
    everyone = [
        ("biases alone", result.baseline, result.baseline_errors, ""),
        ("most popular", result.popular, result.popular_errors, ""),
    ]
    everyone += [
        (each.record.family, each.record.metrics, each.errors, f"{each.record.seconds:.2f} s")
        for each in result.trained
    ]
    for name, metrics, errors, took in everyone:
        lines.append((name, *(_figure(metrics.get(metric), errors.get(metric)) for metric in names), took))
    print_table(("Family", *names, "fit"), lines, numbers=(*names, "fit"))
    for metric, does in ((f"ndcg@{plan.k}", "ranks"), ("rmse", "predicts ratings")):
        measured = [
            (each.record.metrics[metric], each.record.family)
            for each in result.trained
            if metric in each.record.metrics
        ]
        if measured:
            value, family = (min if metric == "rmse" else max)(measured)
            say(f"{family} {does} best: {metric} {value:.4f}.")
    if "time.rmse" not in result.baseline or plan.split.kind == "time":
        return
    say(f"On the last {plan.split.share:.0%} of each user's ratings, trained on those before:")
    ranking = f"ndcg@{plan.k}"
    lines = []
    for name, metrics, errors, _ in everyone:
        gain = metrics.get("time.gain")
        gained = "" if gain is None else f"{gain:.4f} ± {errors['time.gain']:.4f}"
        lines.append(
            (name, *(_figure(metrics.get(f"time.{metric}"), None) for metric in ("rmse", ranking)), gained)
        )
    below = "squared error below the biases'"
    print_table(("Family", "rmse", ranking, below), lines, numbers=("rmse", ranking, below))


def _figure(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
