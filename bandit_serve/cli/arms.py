"""Commands `bandit-serve experiments add-arm`, `remove-arm`, `pause-arm`, `resume-arm` and `add-metric`."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
import typer

from bandit_serve.api.views import experiment_view
from bandit_serve.base.nesting import TOO_DEEP, nesting_error_of_json
from bandit_serve.base.validation import as_invalid_input, invalid
from bandit_serve.cli.access import actor
from bandit_serve.cli.command import AsJson, Reason, of_existing_store, with_state
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_json, say
from bandit_serve.errors import UsageError
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.named_metric import filled_metric
from bandit_serve.experiments.spec import Arm, Ramp
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node

T = TypeVar("T")

Experiment = Annotated[str, typer.Argument(help="The experiment's name.", show_default=False)]
ArmName = Annotated[str, typer.Argument(help="The arm's name.", show_default=False)]


@with_state
@of_existing_store
async def add_arm(
    node: Node,
    experiment: Experiment,
    arm: ArmName,
    model: Annotated[str | None, typer.Option(help="The model that predicts for it.")] = None,
    version: Annotated[str | None, typer.Option(help="The model's version.")] = None,
    payload: Annotated[str | None, typer.Option(help="What the caller is handed, as JSON.")] = None,
    feature: Annotated[
        list[float] | None,
        number_option("A number that describes it to a contextual policy; repeatable, in order."),
    ] = None,
    ramp_from: Annotated[
        float | None, number_option("The most of its share at first, above 0 and at most 1.")
    ] = None,
    ramp_over: Annotated[
        str | None, typer.Option(help='How long until nothing bounds its share any more, such as "2h".')
    ] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Adds an arm, at once or with a ramp."""
    fields: dict[str, Any] = {"name": arm, "model": model, "version": version, "features": feature or None}
    if payload is not None:
        fields["payload"] = _json(payload)
    if (ramp_from is None) != (ramp_over is None):
        raise UsageError("A ramp needs both --ramp-from and --ramp-over.")
    ramp = None if ramp_from is None else _converted({"from": ramp_from, "over": ramp_over}, Ramp)
    live = await node.experiment_changes.add_arm(
        experiment, _converted(fields, Arm), actor(), ramp=ramp, reason=reason
    )
    _print_arm(live, arm, as_json)


@with_state
@of_existing_store
async def remove_arm(
    node: Node, experiment: Experiment, arm: ArmName, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Removes an arm for good; rewards of its decisions still count."""
    _print_arm(
        await node.experiment_changes.remove_arm(experiment, arm, actor(), reason=reason), arm, as_json
    )


@with_state
@of_existing_store
async def pause_arm(
    node: Node, experiment: Experiment, arm: ArmName, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Gives an arm no traffic until it is resumed."""
    _print_arm(await node.experiment_changes.pause_arm(experiment, arm, actor(), reason=reason), arm, as_json)


@with_state
@of_existing_store
async def resume_arm(
    node: Node, experiment: Experiment, arm: ArmName, reason: Reason = None, as_json: AsJson = False
) -> None:
    """Gives a paused arm its traffic again."""
    _print_arm(
        await node.experiment_changes.resume_arm(experiment, arm, actor(), reason=reason), arm, as_json
    )


@with_state
@of_existing_store
async def add_metric(
    node: Node,
    experiment: Experiment,
    metric: Annotated[
        str,
        typer.Argument(
            help='The metric as JSON, such as \'{"name": "revenue", "kind": "continuous"}\'; without a kind it is the '
            "catalogue's."
        ),
    ],
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Adds a metric; decisions from then on are analysed on it."""
    content = msgspec.json.encode(_json(metric))
    filled = filled_metric(content, node.definition_changes.definitions())
    if filled.errors:
        raise as_invalid_input(filled.errors)
    added = _converted(msgspec.json.decode(filled.body), Metric)
    live = await node.experiment_changes.add_metric(experiment, added, actor(), reason=reason)
    if as_json:
        print_json(experiment_view(live.record))
    else:
        say(f"{experiment} has the metric {added.name}.")


def _json(text: str) -> Any:
    if nesting_error_of_json(text.encode()) is not None:
        raise UsageError(f"The JSON is nested too deep: {TOO_DEEP}.")
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"Expected JSON: {error}.") from None


def _converted(fields: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def _print_arm(live: LiveExperiment, arm: str, as_json: bool) -> None:
    view = experiment_view(live.record)
    if as_json:
        print_json(view)
    else:
        say(f"The arm {arm} of {view.id} is {view.arm_status[arm]}.")


COMMANDS = {
    "add-arm": add_arm,
    "remove-arm": remove_arm,
    "pause-arm": pause_arm,
    "resume-arm": resume_arm,
    "add-metric": add_metric,
}
