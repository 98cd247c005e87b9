"""Promotions on the terminal, and the files that say their way."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bandit_serve.api.promotions import PromotionView
from bandit_serve.base.validation import field_error
from bandit_serve.cli.described import as_json as json_of
from bandit_serve.cli.described import read_described
from bandit_serve.cli.output import print_facts, print_table, short_time
from bandit_serve.errors import FieldError, UsageError
from bandit_serve.registry.promotions import PromotionPlan


def plan_in(path: Path) -> PromotionPlan:
    """Plan of a file. Raises `UsageError` that names the field."""
    try:
        return msgspec.convert(msgspec.json.decode(json_of(read_described(path))), PromotionPlan)
    except msgspec.ValidationError as error:
        wrong = field_error(error)
        at = wrong.at or "plan"
        raise UsageError(f"{path}: {at}: {wrong.detail}.", [FieldError(at, wrong.detail)]) from None


def print_promotion(view: PromotionView) -> None:
    following = "nothing" if view.next is None else f"{view.next.step}: {view.next.detail}"
    print_facts(
        [
            ("Promotion", f"{view.id} of {view.model}"),
            ("Version", f"{view.version}, compared with {view.former}"),
            ("State", view.state + (f" ({view.reason})" if view.reason else "")),
            ("Next", following),
            ("Begun", f"{view.began_at} by {view.who}"),
        ]
    )
    if view.steps:
        rows = [
            (
                short_time(step.began_at),
                step.step if isinstance(step.share, msgspec.UnsetType) else f"{step.step} {step.share:.0%}",
                {True: "passed", False: "failed", None: "under way" if step.ended_at is None else "left"}[
                    step.passed
                ],
                step.reason or "",
            )
            for step in view.steps
        ]
        print_table(("When", "Step", "Result", "Why"), rows, whole=("When", "Step", "Result"))
