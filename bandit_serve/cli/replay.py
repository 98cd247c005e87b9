"""Command `bandit-serve replay`: comparison of each state with the one that its log makes."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import Struct

from bandit_serve.cli.command import AsJson, of_existing_store, with_store
from bandit_serve.cli.output import print_json, print_table, say
from bandit_serve.errors import NotFound
from bandit_serve.node import Node
from bandit_serve.replication.replay import Replayed, replay

VERDICTS = {True: "equal", False: "DIFFERENT", None: "nothing to compare"}


class ReplayReport(Struct, frozen=True):
    """Outcome for all experiments. `equal` is false if one state differs from its log."""

    equal: bool
    experiments: list[Replayed]


@with_store
@of_existing_store
async def replay_all(
    node: Node,
    experiments: Annotated[
        list[str] | None, typer.Argument(help="The experiments to replay (default: all).", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuilds each experiment's state from its log and compares it, bit for bit.

    With the state of every worker that lives, and with every snapshot that is kept. Exit status 1 where one
    differs, or where a worker that lives does not answer.
    """
    registry = await node.read_registry()
    replayed = []
    for owner in map(registry.owner, experiments) if experiments else sorted(registry.experiments):
        try:
            replayed.append(await replay(node.store, owner, registry.repairs))
        except NotFound:
            if experiments:
                raise
            # One that was announced, and then its creation failed.
    report = ReplayReport(all(each.equal is not False for each in replayed), replayed)
    if as_json:
        print_json(report)
    elif not replayed:
        say("There is no experiment to replay.")
    else:
        _print(replayed)
    if not report.equal:
        raise typer.Exit(1)


def _print(replayed: list[Replayed]) -> None:
    print_table(
        ("Experiment", "Entries", "Offset", "Digest", "Workers", "Snapshots", "Verdict"),
        [
            (
                each.experiment,
                str(each.entries),
                each.offset,
                (each.digest or "–")[:8],
                _count([worker.result for worker in each.workers]),
                _count([snapshot.result for snapshot in each.snapshots]),
                VERDICTS[each.equal],
            )
            for each in replayed
        ],
        numbers=("Entries",),
        whole=("Offset", "Digest", "Workers", "Snapshots", "Verdict"),
    )
    for each in replayed:
        start = "the beginning" if each.start is None else f"the snapshot at {each.start}"
        say(f"{each.experiment}, from {start}: {each.reason}.")


def _count(results: list[str]) -> str:
    return "\n".join(f"{results.count(result)} {result}" for result in sorted(set(results))) or "none"
