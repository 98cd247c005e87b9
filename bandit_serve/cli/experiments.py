"""Commands `bandit-serve experiments`: applying files, starting, pausing, stopping and showing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.api.views import ExperimentList, experiment_view, history_view
from bandit_serve.base.clock import rfc3339, unix_ms
from bandit_serve.cli import arms
from bandit_serve.cli.access import actor, store_name
from bandit_serve.cli.command import AsJson, Experiment, Reason, of_existing_store, with_state
from bandit_serve.cli.experiments_file import named, read_experiments
from bandit_serve.cli.experiments_plan import FieldChange, Outcome, Planned, plan
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_facts, print_json, print_table, say, short_time
from bandit_serve.cli.results import explain, results
from bandit_serve.errors import BanditServeError
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.experiments.layer import N_SLOTS
from bandit_serve.experiments.named_metric import Definitions
from bandit_serve.experiments.spec import Experiment as Described
from bandit_serve.experiments.spec import Status
from bandit_serve.experiments.stopping import Stopping, StoppingRule
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node

app = typer.Typer(help="Experiments.", no_args_is_help=True)

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Experiments, as POST /v1/experiments takes them or `show --json` prints them: .toml, .json or .yaml, "
        "of which each may hold several; - for the standard input.",
        metavar="FILE...",
        show_default=False,
        exists=True,
        dir_okay=False,
        readable=True,
        allow_dash=True,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]


class Applied(Struct, frozen=True):
    """Outcome for one experiment. `revision` is 0 if it does not exist; `changes` has a value in a dry run only."""

    id: str
    result: Outcome
    status: str
    revision: int
    changes: tuple[FieldChange, ...] | UnsetType = UNSET


WOULD_BE: dict[Outcome, str] = {
    "created": "would be created, as a draft",
    "draft changed": "the draft would become another",
    "policy changed": "its policy would change",
    "arms changed": "its arms would change",
    "arms and policy changed": "its arms and its policy would change",
    "unchanged": "would stay as it is",
}


class AppliedList(Struct, frozen=True):
    experiments: list[Applied]


class Deleted(Struct, frozen=True):
    deleted: str


@app.command()
@with_state
async def apply(node: Node, files: Files, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Creates the experiments of files that are missing, and changes what differs of those that are there.

    Of a draft that is anything, of others policy and arms: arms that the file has more are added, those that it does
    not have any more are removed. Nothing is applied unless all of it can be: what is fixed once an experiment is
    started is compared first.
    """
    experiments = read_experiments(*files, definitions_of=partial(_definitions_of, node))
    for experiment in experiments:
        await node.tail.refresh(experiment.id)
    planned = plan(named(files), experiments, node.replica.experiments, node.replica.registry)
    if dry_run:
        _print_plan(node, planned, as_json)
        return
    applied: list[Applied] = []
    try:
        for each in planned:
            record = (await _apply(node, each)).record
            applied.append(Applied(each.experiment.id, each.outcome, record.status, record.revision))
    except BanditServeError as error:
        if applied:
            done = ", ".join(f"{each.id} ({each.result})" for each in applied)
            error.add_note(f"Applied before that: {done}.")
        raise
    if as_json:
        print_json(AppliedList(applied))
    else:
        print_table(
            ("Experiment", "Result", "Status", "Revision"),
            [(each.id, each.result, each.status, str(each.revision)) for each in applied],
            numbers=("Revision",),
        )


def _definitions_of(node: Node, experiment: str) -> Definitions:
    """Definitions of metrics that an experiment may name: the catalogue's, and those that it has since it was started.

    So a file that names metrics says of a started experiment what that is, whatever the catalogue says since.
    """
    live = node.replica.experiments.get(experiment)
    own = () if live is None or live.record.status == "draft" else live.experiment.metrics
    return {
        **node.definition_changes.definitions(),
        **{metric.name: MetricDefinition.of(metric) for metric in own},
    }


def _print_plan(node: Node, planned: list[Planned], as_json: bool) -> None:
    would = []
    for each in planned:
        live = node.replica.experiments.get(each.experiment.id)
        status, revision = ("draft", 0) if live is None else (live.record.status, live.record.revision)
        would.append(Applied(each.experiment.id, each.outcome, status, revision, each.changes))
    if as_json:
        print_json(AppliedList(would))
        return
    for one in would:
        say(f"{one.id}: {WOULD_BE[one.result]}")
        for change in one.changes or ():
            say(f"  {change.shown}")


async def _apply(node: Node, planned: Planned) -> LiveExperiment:
    """Carries out a plan: first added arms, then the policy that may name them, last removed arms."""
    experiment, changes = planned.experiment, node.experiment_changes
    if planned.etag is None:
        return await changes.create(experiment, actor())
    live = node.replica.experiment(experiment.id)
    seen = planned.etag
    if planned.whole:
        return await changes.put(experiment.id, experiment, actor(), if_match=seen)
    for arm in planned.added:
        live = await changes.add_arm(experiment.id, arm, actor(), if_match=seen)
        seen = live.etag
    if planned.changes_policy:
        live = await changes.change_policy(experiment.id, experiment.policy, actor(), if_match=seen)
        seen = live.etag
    for name in planned.removed:
        live = await changes.remove_arm(experiment.id, name, actor(), if_match=seen)
        seen = live.etag
    return live


@app.command("list")
@with_state
@of_existing_store
async def list_all(node: Node, as_json: AsJson = False) -> None:
    """Lists all experiments."""
    experiments = [live for _, live in sorted(node.replica.experiments.items())]
    if as_json:
        print_json(ExperimentList([experiment_view(live.record) for live in experiments]))
    elif not experiments:
        say(f"There is no experiment in {store_name(node.settings)}.")
    else:
        print_table(
            ("Experiment", "Status", "Policy", "Decisions", "Rewards", "Changed"),
            [
                (
                    live.experiment.id,
                    live.record.status,
                    live.experiment.policy.kind,
                    str(live.exposures.sum()),
                    str(live.rewards.sum()),
                    short_time(experiment_view(live.record).updated_at),
                )
                for live in experiments
            ],
            numbers=("Decisions", "Rewards"),
            whole=("Status", "Policy", "Changed"),
        )


@app.command()
@with_state
@of_existing_store
async def show(node: Node, experiment: Experiment, as_json: AsJson = False) -> None:
    """Shows an experiment: what it is, how its traffic is shared now, and who changed what."""
    live = await node.experiment_changes.known(experiment)
    if as_json:
        print_json(experiment_view(live.record))
    else:
        _print_experiment(live, await node.store.time_ms())


@app.command()
@with_state
@of_existing_store
async def start(node: Node, experiment: Experiment, reason: Reason = None, as_json: AsJson = False) -> None:
    """Starts a draft, or goes on with one that is paused."""
    _print_status(await node.experiment_changes.start(experiment, actor(), reason=reason), as_json)


@app.command()
@with_state
@of_existing_store
async def pause(node: Node, experiment: Experiment, reason: Reason = None, as_json: AsJson = False) -> None:
    """Pauses an experiment: everyone gets control, and nothing is learned."""
    _print_status(await node.experiment_changes.pause(experiment, actor(), reason=reason), as_json)


@app.command()
@with_state
@of_existing_store
async def stop(
    node: Node,
    experiment: Experiment,
    winner: Annotated[
        str | None, typer.Option(help="The arm that everyone gets from now on; its model is promoted.")
    ] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Stops an experiment for good."""
    stopped = await node.experiment_changes.stop(experiment, actor(), winner=winner, reason=reason)
    _print_status(stopped, as_json)


@app.command()
@with_state
@of_existing_store
async def layer(
    node: Node,
    experiment: Experiment,
    share: Annotated[
        float, number_option("The share of the layer's units that may be in it.", min=1 / N_SLOTS, max=1)
    ],
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Gives an experiment another share of its layer. No unit of another experiment is moved."""
    live = await node.experiment_changes.change_layer(experiment, share, actor(), reason=reason)
    if as_json:
        print_json(experiment_view(live.record))
    else:
        present = live.experiment.layer
        assert present is not UNSET
        say(f"{experiment} has {100 * present.share:g} % of the layer {present.name}.")


@app.command()
@with_state
@of_existing_store
async def delete(node: Node, experiment: Experiment, reason: Reason = None, as_json: AsJson = False) -> None:
    """Deletes a draft, or an experiment that is stopped, for good: its log, its results and its history."""
    await node.experiment_changes.delete(experiment, actor(), reason=reason)
    if as_json:
        print_json(Deleted(experiment))
    else:
        say(f"{experiment} is deleted.")


for name, command in arms.COMMANDS.items():
    app.command(name)(command)


app.command("results")(results)
app.command("explain")(explain)


def _print_status(live: LiveExperiment, as_json: bool) -> None:
    view = experiment_view(live.record)
    if as_json:
        print_json(view)
    else:
        winner = f"; everyone gets {view.winner}" if view.winner else ""
        say(f"{view.id} is {view.status}{winner}.")


def _print_experiment(live: LiveExperiment, now_ms: int) -> None:
    view, experiment = experiment_view(live.record), live.experiment
    objective, attribution = experiment.objective, experiment.attribution
    print_facts(
        [
            ("Experiment", view.id),
            ("Status", view.status + (f", winner {view.winner}" if view.winner else "")),
            ("Revision", str(view.revision)),
            ("Policy", _policy(live)),
            ("Unit", experiment.unit),
            ("Objective", f"{objective.goal} {objective.name} ({objective.kind})"),
            ("Attribution", f"{attribution.window}, a missing reward counts as {_missing(live)}"),
            *_who(experiment),
            ("Created", view.created_at),
            ("Started", view.started_at or "not yet"),
            *([("Stopped", view.stopped_at)] if view.stopped_at else []),
            *_by_itself(experiment.stopping, view.status),
        ]
    )
    shares = live.current_shares(now_ms).tolist()
    print_table(
        ("Arm", "Model", "Share", "Decisions", "Rewards"),
        [
            (
                arm.name + _remark(live, k),
                f"{arm.model} {arm.version}" if arm.model else "",
                f"{shares[k]:.4f}",
                str(live.exposures[k]),
                str(live.rewards[k]),
            )
            for k, arm in enumerate(experiment.arms)
        ],
        numbers=("Share", "Decisions", "Rewards"),
    )
    print_table(
        ("When", "Who", "What", "Status", "Policy", "Why"),
        [
            (short_time(e.at), e.who, f"{e.what} {e.arm or ''}".strip(), e.status, e.policy, e.reason or "")
            for e in map(history_view, live.history)
        ],
        whole=("When", "What", "Status"),
    )


def _by_itself(stopping: Stopping, status: Status) -> list[tuple[str, str]]:
    """Lines about when the experiment starts and ends by itself, as far as that is still to come."""
    told = []
    if status == "draft" and stopping.start_at is not UNSET:
        told.append(("Starts", rfc3339(unix_ms(stopping.start_at))))
    if status == "stopped":
        return told
    ends = [] if stopping.end_at is UNSET else [f"at {rfc3339(unix_ms(stopping.end_at))}"]
    ends += [] if stopping.duration is None else [f"{stopping.duration} after its start"]
    if stopping.rule == "winner":
        ends.append("when there is a winner")
    elif isinstance(stopping.rule, StoppingRule):
        ends += [f"by {name} {getattr(stopping.rule, name):g}" for name in stopping.rule.given]
    return [*told, *([("Ends", ", or ".join(ends))] if ends else [])]


def _who(experiment: Described) -> list[tuple[str, str]]:
    """Facts on what the experiment is for, whose it is, and who is in it, as far as it says so."""
    facts = [
        (name.capitalize(), text)
        for name in ("description", "hypothesis", "owner")
        if (text := getattr(experiment, name)) is not UNSET
    ]
    if experiment.tags is not UNSET:
        facts.append(("Tags", ", ".join(experiment.tags)))
    if experiment.audience is not UNSET:
        facts.append(("Audience", msgspec.json.encode(experiment.audience).decode()))
    if experiment.layer is not UNSET:
        facts.append(("Layer", f"{100 * experiment.layer.share:g} % of {experiment.layer.name}"))
    return facts


def _remark(live: LiveExperiment, arm: int) -> str:
    if arm == live.experiment.control_arm:
        return " (control)"
    status = live.record.standing(arm).status
    return "" if status == "active" else f" ({status})"


def _policy(live: LiveExperiment) -> str:
    policy = live.experiment.policy
    given = [
        f"{name}={getattr(policy, name)}"
        for name in policy.__struct_fields__
        if name != "kind" and getattr(policy, name) is not None
    ]
    return f"{policy.kind} ({', '.join(given)})"


def _missing(live: LiveExperiment) -> str:
    return "0" if live.experiment.missing == "zero" else "nothing"
