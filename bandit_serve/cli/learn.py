"""Command `bandit-serve learn`: a model that keeps learning from the rewards of its experiments."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bandit_serve.cli.access import actor
from bandit_serve.cli.command import AsJson, of_existing_store, with_state
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_json, say
from bandit_serve.cli.promotion_table import plan_in
from bandit_serve.errors import Conflict, InvalidInput, UsageError, in_full
from bandit_serve.experiments.spec import Ramp
from bandit_serve.node import Node
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.registry.promotions import PromotionPlan
from bandit_serve.training.gates import Gate
from bandit_serve.training.learning.daemon import Daemon, LearnerStatus, Options
from bandit_serve.training.learning.prequential import PREQUENTIAL_METRICS
from bandit_serve.training.learning.publisher import Publication
from bandit_serve.training.rating_rule import read_rules

STAGING = "prequential.rmse <= frozen.rmse"


@with_state
@of_existing_store
async def learn(
    node: Node,
    model: Annotated[str, typer.Argument(help="The model whose versions learn.", show_default=False)],
    start_from: Annotated[
        str | None, typer.Option("--from", help="The version to start from (default: the one in production).")
    ] = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option(help="An experiment to learn from (default: all that use the model); repeatable."),
    ] = None,
    rating: Annotated[
        list[str] | None,
        typer.Option(
            help="Rule from rewards to ratings, such as 'EXPERIMENT=1 + 4 * METRIC' (default: the objective's, as a "
            "utility); repeatable."
        ),
    ] = None,
    every: Annotated[int, typer.Option(help="Ratings between two versions.", min=1)] = 5_000,
    checkpoint_every: Annotated[float, number_option("Seconds between two checkpoints.", min=0.0)] = 5.0,
    gate: Annotated[str, typer.Option(help="Gate that a version has to pass to be staged.")] = STAGING,
    promote: Annotated[
        str | None, typer.Option(help="Gate that it has to pass to go into production (default: never).")
    ] = None,
    gated: Annotated[
        Path | None,
        typer.Option(
            help="A plan by whose steps staged versions go into production, one after the other.",
            show_default=False,
        ),
    ] = None,
    arm_of: Annotated[str | None, typer.Option(help="Add each version as an arm of this experiment.")] = None,
    ramp_over: Annotated[
        str | None, typer.Option(help='How long a new arm\'s share is bounded, such as "2h".')
    ] = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Stop when everything logged so far is learned.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Print the learner's status and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learns from rewards as they come, measures itself, and publishes versions; goes on after a crash."""
    if ramp_over is not None and arm_of is None:
        raise UsageError("--ramp-over needs --arm-of.")
    if gated is not None and promote is not None:
        raise UsageError("--gated: expected either this or --promote, which is a way of its own.")
    publication = Publication(
        _gate("--gate", gate),
        None if promote is None else _gate("--promote", promote),
        arm_of,
        None if ramp_over is None else msgspec.convert({"from": 0.05, "over": ramp_over}, Ramp),
        None if gated is None else partial(_begin, node, model, plan_in(gated)),
    )
    options = Options(
        publication, every, checkpoint_every, until_caught_up, experiment, read_rules(rating or [])
    )
    registry = await node.model_changes.known()
    version = registry.production(model) if start_from is None else registry.version(model, start_from)
    daemon = Daemon(node, version, options, who=actor(), say=_silent if as_json else say)
    _report(await (daemon.status() if status else daemon.run()), as_json)


def _gate(option: str, text: str) -> Gate:
    try:
        gate = Gate(text)
        gate.require_known(PREQUENTIAL_METRICS, any_current=True)
    except InvalidInput as error:
        raise InvalidInput(f"{option}: {error}") from None
    return gate


async def _begin(node: Node, model: str, plan: PromotionPlan, version: str) -> str:
    """Begins the promotion of a version, unless it had one, or another is under way."""
    known = (await node.model_changes.known()).promotions.get(model, ())
    former = next((each for each in known if each.version == version), None)
    if former is not None:
        return f"{version} has the promotion {former.id}."
    try:
        begun = await Promoting(node).begin(model, version, plan, actor())
    except (Conflict, InvalidInput) as error:
        return f"{version} is not promoted: {in_full(error)}"
    return f"{version} is promoted by steps: {begun.id}."


def _silent(text: str) -> None:
    """Ignores progress, as the output is JSON."""


def _report(status: LearnerStatus, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    say(f"{status.model} {status.started_from}: {status.learned:,} ratings learned.")
    for name, value in status.metrics.items():
        say(f"  {name:16} {value:.4f}")
    if status.drift_at is not None:
        say(f"  errors grew at rating {status.drift_at:,}")
    if status.lost:
        say(f"  {status.lost:,} decisions were given up before their window closed")
