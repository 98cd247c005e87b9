"""Command `bandit-serve export`: an experiment's log as files."""

from __future__ import annotations

import asyncio
import csv
import io
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import UNSET

from bandit_serve.base.clock import rfc3339, unix_ms
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.base.extras import require
from bandit_serve.base.secrets import shown_place
from bandit_serve.cli.command import AsJson, Experiment, of_existing_store, with_state
from bandit_serve.cli.output import print_json, say
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.export.follow import FollowingExport
from bandit_serve.export.formats import Format
from bandit_serve.export.once import export as export_once
from bandit_serve.export.places import place_of
from bandit_serve.export.reading import TimeSpan
from bandit_serve.export.tables import EXTRA
from bandit_serve.folds.assignment import rendezvous
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node

MIN_EVERY_MS = 100
Since = Annotated[
    str | None,
    typer.Option(help="From this time on (RFC 3339, such as 2026-01-31T00:00:00Z).", show_default=False),
]
Until = Annotated[str | None, typer.Option(help="Before this time.", show_default=False)]


@with_state
@of_existing_store
async def export(
    node: Node,
    experiment: Experiment,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder (Parquet), or file, to write; a path or a URL that fsspec opens.", show_default=False
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Of the files.")] = "parquet",
    since: Since = None,
    until: Until = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on: write each decision once, when its window has closed.")
    ] = False,
    every: Annotated[str, typer.Option(help="Pause between two parts of --follow.")] = "10s",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
    hash_units: Annotated[
        Path | None,
        typer.Option(
            "--hash-units",
            help="Print the column `unit` for names of units instead, one a line of this file.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes an experiment's decisions with their rewards as Parquet, JSON lines or CSV, one row a decision."""
    if hash_units is not None:
        await _print_hashes(node, experiment, hash_units)
        return
    if out is None:
        raise UsageError("--out: expected the folder or file to write.")
    require("pyarrow", EXTRA)
    span = span_of(since, until)
    pause_s = _pause_s(every)
    place = place_of(out)
    live = await node.experiment_changes.known(experiment)
    if follow:
        follower = FollowingExport(node, live, place, format_, span)
        await _follow(follower, pause_s, as_json=as_json, overwrite=overwrite)
        return
    began_s = time.monotonic()
    done = await export_once(node, live, place, format_, span, overwrite=overwrite)
    if as_json:
        print_json(done)
        return
    took_s = time.monotonic() - began_s
    say(
        f"{shown_place(out)}: {_count(done.rows, 'decision')}, {_count(done.files, 'file')}, {done.bytes:,} bytes "
        f"in {took_s:.1f} s."
    )
    if done.trimmed is not UNSET:
        _say_trimmed(done.trimmed)


def span_of(since: str | None, until: str | None) -> TimeSpan:
    """Span of times in RFC 3339. Raises `UsageError` for anything else, and for an end before the beginning."""
    span = TimeSpan(_time_ms("--since", since), _time_ms("--until", until))
    if span.since_ms is not None and span.until_ms is not None and span.since_ms >= span.until_ms:
        raise UsageError("--until: expected a time after --since.")
    return span


def _time_ms(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None:
        raise UsageError(f"{option}: expected a time such as 2026-01-31T00:00:00Z, not {text[:40]!r}.")
    return unix_ms(at)


def _pause_s(every: str) -> float:
    try:
        pause_ms = parse_duration_ms(every)
    except InvalidInput as error:
        raise UsageError(f"--every: {error}.") from None
    if pause_ms < MIN_EVERY_MS:
        raise UsageError(f"--every: expected {MIN_EVERY_MS} ms at least, not {every}.")
    return pause_ms / 1000


async def _follow(follower: FollowingExport, pause_s: float, *, as_json: bool, overwrite: bool) -> None:
    """Cuts until it is interrupted, or the experiment is deleted."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    first = follower.state.rows
    try:
        await follower.start(overwrite=overwrite)
        first = follower.state.rows
        if follower.trimmed_ms is not None and not as_json:
            _say_trimmed(rfc3339(follower.trimmed_ms))
        while not ended.is_set():
            for part in await follower.cut():
                if as_json:
                    print_json({"part": part.name, "rows": part.rows, "bytes": part.nbytes})
                else:
                    say(f"{part.name}: {_count(part.rows, 'decision')}, {part.nbytes:,} bytes.")
            if follower.ended:
                say("The experiment was deleted.")
                break
            try:
                await asyncio.wait_for(ended.wait(), pause_s)
            except TimeoutError:
                continue
    finally:
        follower.close()
    if not as_json:
        say(f"{_count(follower.state.rows - first, 'decision')} more, {follower.state.rows:,} in all.")


async def _print_hashes(node: Node, experiment: str, path: Path) -> None:
    live: LiveExperiment = await node.experiment_changes.known(experiment)
    if live.experiment.unit != "user":
        raise UsageError('Only experiments with "unit": "user" have units.')
    names = path.read_text("utf-8").splitlines()
    hashes = rendezvous(live.record).hash_units(names).tolist()
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(
        [("name", "unit"), *((name, f"{each:016x}") for name, each in zip(names, hashes, strict=True))]
    )
    print(written.getvalue(), end="")


def _say_trimmed(through: str) -> None:
    say(f"Entries of the log through {through} are gone: what was decided before is missing, or partly.")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
