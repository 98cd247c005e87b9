"""Commands `bandit-serve metrics`: the catalogue of metrics that experiments name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from msgspec import UNSET, Struct

from bandit_serve.api.definitions import (
    DefinitionList,
    DefinitionView,
    MetricUse,
    definition_uses,
    definition_view,
    metric_use,
)
from bandit_serve.base.validation import convert_or_explain
from bandit_serve.changes.definitions import Definition
from bandit_serve.cli.access import actor, store_name
from bandit_serve.cli.command import AsJson, of_existing_store, with_state
from bandit_serve.cli.definitions_file import read_definitions
from bandit_serve.cli.described import STDIN
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_facts, print_json, print_table, say, short_time
from bandit_serve.errors import UsageError
from bandit_serve.experiments.definition import DEFINED, MetricDefinition
from bandit_serve.node import Node
from bandit_serve.registry.definitions import definition_in

app = typer.Typer(help="The catalogue of metrics that experiments name.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The metric's name.", show_default=False)]
Result = Literal["defined", "changed", "unchanged"]


class DefinedMetric(Struct, frozen=True):
    """Outcome for one metric."""

    name: str
    result: Result
    revision: int


class DefinedList(Struct, frozen=True):
    metrics: list[DefinedMetric]


class Removed(Struct, frozen=True):
    removed: str


@app.command("list")
@with_state
@of_existing_store
async def list_all(node: Node, as_json: AsJson = False) -> None:
    """Lists the catalogue."""
    catalogue = await node.definition_changes.known()
    views = [definition_view(name, defined) for name, defined in sorted(catalogue.items())]
    if as_json:
        print_json(DefinitionList(views))
    elif not views:
        say(f"No metric is defined in {store_name(node.settings)}.")
    else:
        rows = [
            (each.name, each.kind, each.goal, each.owner or "", short_time(each.updated_at)) for each in views
        ]
        print_table(("Metric", "Kind", "Goal", "Owner", "Changed"), rows, whole=("Kind", "Goal", "Changed"))


@app.command()
@with_state
@of_existing_store
async def show(node: Node, name: Name, as_json: AsJson = False) -> None:
    """Shows what a metric is, and which experiments have one of its name."""
    defined = definition_in(await node.definition_changes.known(), name)
    found = (
        metric_use(name, defined.definition, record) for _, record in sorted(node.replica.records().items())
    )
    uses = [use for use in found if use is not None]
    if as_json:
        print_json(definition_uses(name, defined, uses))
    else:
        _print_definition(definition_view(name, defined), uses)


@app.command()
@with_state
async def define(
    node: Node,
    what: Annotated[
        list[str],
        typer.Argument(
            help="Definitions in files, .toml, .json or .yaml, as `list --json` prints them; - for the standard "
            "input. With --kind the name of one metric.",
            metavar="FILE...|NAME",
            show_default=False,
        ),
    ],
    kind: Annotated[str | None, typer.Option(help="binary, bounded, count, continuous or ratio.")] = None,
    goal: Annotated[str | None, typer.Option(help="maximize, unless minimize is given.")] = None,
    low: Annotated[float | None, number_option("The least value of a bounded metric.")] = None,
    high: Annotated[float | None, number_option("The largest value of a bounded metric.")] = None,
    source: Annotated[
        str | None, typer.Option(help="client, or served where the service measures it.")
    ] = None,
    cap: Annotated[float | None, number_option("The most that a value counts for.")] = None,
    quantile: Annotated[float | None, number_option("The quantile that results are of.")] = None,
    covariate: Annotated[str | None, typer.Option(help="The number that reduces its variance.")] = None,
    numerator: Annotated[str | None, typer.Option(help="The metric above the line of a ratio.")] = None,
    denominator: Annotated[str | None, typer.Option(help="The metric below the line of a ratio.")] = None,
    description: Annotated[str | None, typer.Option(help="What it measures.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Defines metrics: those of files, or one by its fields. Experiments that have them stay as they are."""
    given = {
        "kind": kind,
        "goal": goal,
        "low": low,
        "high": high,
        "source": source,
        "cap": cap,
        "quantile": quantile,
        "covariate": covariate,
        "numerator": numerator,
        "denominator": denominator,
        "description": description,
        "owner": owner,
    }
    fields = {field: value for field, value in given.items() if value is not None}
    definitions = _of_files(what, fields) if kind is None else {_only(what): _converted(fields)}
    made = {
        name: await node.definition_changes.define(name, definition, actor())
        for name, definition in definitions.items()
    }
    outcomes = [DefinedMetric(name, _result(each), each.defined.revision) for name, each in made.items()]
    if as_json:
        print_json(DefinedList(outcomes))
    else:
        print_table(("Metric", "Result"), [(each.name, each.result) for each in outcomes])


@app.command()
@with_state
@of_existing_store
async def remove(node: Node, name: Name, as_json: AsJson = False) -> None:
    """Takes a metric out of the catalogue. Experiments that have it stay as they are."""
    await node.definition_changes.remove(name, actor())
    if as_json:
        print_json(Removed(name))
    else:
        say(f"{name} is not in the catalogue any more.")


def _of_files(what: list[str], fields: dict[str, Any]) -> dict[str, MetricDefinition]:
    if fields:
        raise UsageError(f"--{next(iter(fields))} is of one metric, which needs a --kind.")
    paths = [Path(each) for each in what]
    for path in paths:
        if path != STDIN and not path.is_file():
            raise UsageError(f"{path} is no file. To define a metric of this name, give its --kind.")
    return read_definitions(*paths)


def _only(what: list[str]) -> str:
    if len(what) != 1:
        raise UsageError("With --kind there is one metric: expected one name.")
    return what[0]


def _converted(fields: dict[str, Any]) -> MetricDefinition:
    try:
        return msgspec.convert(fields, MetricDefinition)
    except msgspec.ValidationError as error:
        return convert_or_explain(fields, MetricDefinition, error)


def _result(definition: Definition) -> Result:
    if definition.is_new:
        return "defined"
    return "changed" if definition.is_changed else "unchanged"


def _print_definition(view: DefinitionView, uses: list[MetricUse]) -> None:
    values = {field: getattr(view, field) for field in ("description", "owner", *DEFINED)}
    print_facts(
        [
            ("Metric", view.name),
            *(
                (field.capitalize(), str(value))
                for field, value in values.items()
                if value is not None and value is not UNSET
            ),
            ("Changed", f"{view.updated_at} by {view.updated_by}"),
        ]
    )
    if not uses:
        say("No experiment has a metric of this name.")
        return
    print_table(
        ("Experiment", "Status", "Its metric"),
        [(each.experiment, each.status, "as defined" if each.is_current else "another") for each in uses],
        whole=("Status",),
    )
