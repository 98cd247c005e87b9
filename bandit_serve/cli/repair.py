"""Command `bandit-serve repair`: the reason why an experiment was set aside, and its remedies."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import Struct

from bandit_serve.changes.repair import Cost, Diagnosis, Repair, diagnose
from bandit_serve.cli.access import actor
from bandit_serve.cli.command import AsJson, Reason, of_existing_store, with_store
from bandit_serve.cli.output import print_json, print_table, say
from bandit_serve.errors import UsageError
from bandit_serve.node import Node
from bandit_serve.replication.census import living, take
from bandit_serve.store.keys import COMMON

WAYS = """--try-again      after an upgrade: with the build that runs now
--leave-out      without the entries above; the decisions and rewards in them count nowhere
--from-snapshot  as it was at a snapshot above (its offset, or `newest`), without all that came after it
--stop           for good: everyone gets control, and rewards are unknown"""


class RepairReport(Struct, frozen=True):
    """Outcome of a repair: the entries left out, the diagnosis afterwards, and how many of `workers` followed."""

    experiment: str
    way: str
    left_out: Cost
    taken_up: int
    workers: int
    diagnosis: Diagnosis


@with_store
@of_existing_store
async def repair(
    node: Node,
    experiment: Annotated[
        str, typer.Argument(help="The experiment's name, or .common for the registry.", show_default=False)
    ],
    try_again: Annotated[
        bool, typer.Option("--try-again", help="Load it anew, with the build that runs now.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Fold its log without the entries that can not be folded.")
    ] = False,
    from_snapshot: Annotated[
        str | None,
        typer.Option(
            help="Start over from the snapshot at this offset, or from the newest, without all that came after it.",
            show_default=False,
        ),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Give it up: control for everyone, for good.")] = False,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Says why an experiment was set aside, and mends it.

    Without a way out it changes nothing. What is done is in the log: every worker, every later start and `replay`
    follow it. Exit status 1 where the experiment can not be folded after it.
    """
    ways = {
        "try_again": try_again,
        "leave_out": leave_out,
        "from_snapshot": from_snapshot is not None,
        "stop": stop,
    }
    chosen = [way for way, wanted in ways.items() if wanted]
    if len(chosen) > 1:
        raise UsageError("Choose one of --try-again, --leave-out, --from-snapshot and --stop.")
    if experiment == COMMON and chosen and chosen != ["leave_out"]:
        raise UsageError("Of the common log only entries can be left out: --leave-out.")
    store, registry = node.store, await node.read_registry()
    owner = registry.owner(experiment)
    if not chosen:
        diagnosis = await diagnose(store, registry, owner)
        if as_json:
            print_json(diagnosis)
        else:
            _explain(diagnosis)
        return
    mender = Repair(store, registry, actor(), reason)
    if leave_out:
        cost = await mender.leave_out(owner)
    elif from_snapshot is not None:
        offset = None if from_snapshot == "newest" else from_snapshot
        cost = await mender.from_snapshot(owner, offset)
    else:
        cost = await (mender.stop if stop else mender.try_again)(owner)
    workers = await living(store)
    # Each has applied it by then; only of an experiment it may still be that a worker can not fold it.
    taken_up = len(workers)
    if workers and experiment != COMMON and not stop:
        answers = await take(store, owner, workers)
        taken_up = sum(digest != "set aside" for digest in answers.digests.values())
    diagnosis = await diagnose(store, await node.read_registry(), owner)
    outcome = RepairReport(experiment, chosen[0], cost, taken_up, len(workers), diagnosis)
    if as_json:
        print_json(outcome)
    else:
        _tell(outcome)
    if diagnosis.condition == "set_aside":
        raise typer.Exit(1)


def _explain(diagnosis: Diagnosis) -> None:
    name = diagnosis.experiment
    if diagnosis.condition == "well":
        say(f"{name} is well: this build folds all of its log.")
        say(
            "If the service says otherwise, it runs another build, or it met something beside the log: --try-again."
        )
    elif diagnosis.condition == "given_up":
        say(f"{name} was given up; --try-again takes it up again.")
    else:
        say(f"{name} is set aside: this build can not fold its log.")
    if diagnosis.faults:
        print_table(
            ("Entry", "At", "Kind", "Bytes", "Fold", "Why"),
            [
                (fault.offset, fault.at, fault.kind, str(fault.size), fault.fold, fault.reason)
                for fault in diagnosis.faults
            ],
            numbers=("Bytes",),
            whole=("Entry", "At"),
        )
    if diagnosis.lost:
        say(f"Leaving entries out does not help: {diagnosis.lost}")
    if diagnosis.condition == "set_aside" and name != COMMON:
        if diagnosis.snapshots:
            print_table(
                ("Snapshot", "At"),
                [(kept.offset, kept.at) for kept in diagnosis.snapshots],
                whole=("Snapshot", "At"),
            )
        else:
            say("There is no snapshot that this build can start from.")
        say(f"Ways out, each with `bandit-serve repair {name}`:")
        say(WAYS)
    elif diagnosis.condition == "set_aside":
        say(f"Models can not be changed until then: bandit-serve repair {name} --leave-out")
    for omission in diagnosis.omissions:
        why = f": {omission.reason}" if omission.reason else ""
        say(f"Left out by {omission.who}: {omission.first} to {omission.last}{why}")


def _tell(outcome: RepairReport) -> None:
    name, cost = outcome.experiment, outcome.left_out
    if cost.entries:
        say(
            f"Left out of {name}: {cost.entries} entries, with {cost.decisions} decisions, {cost.rewards} rewards "
            f"and {cost.changes} changes."
        )
    if outcome.diagnosis.condition == "set_aside":
        say(f"{name} can still not be folded.")
        _explain(outcome.diagnosis)
    elif outcome.way == "stop":
        say(f"{name} is given up: everyone gets control.")
    elif outcome.workers:
        say(f"{name} is folded again, in {outcome.taken_up} of {outcome.workers} workers.")
    else:
        say(f"{name} can be folded again; no worker runs.")
