"""Commands that read an experiment: `results`, once or again and again, and `explain`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from msgspec import UNSET

from bandit_serve.base.extras import require
from bandit_serve.base.terminal import Terminal
from bandit_serve.cli.command import AsJson, Experiment, of_existing_store, with_state
from bandit_serve.cli.output import print_json, say
from bandit_serve.cli.output_file import OutputFile, output_file
from bandit_serve.cli.over_time import print_over_time
from bandit_serve.cli.results_table import print_results
from bandit_serve.cli.segments_table import print_segments
from bandit_serve.errors import UsageError
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node
from bandit_serve.pictures.report_page import report_page
from bandit_serve.pictures.report_picture import report_png
from bandit_serve.pictures.shown import shown_of
from bandit_serve.pictures.theme import Theme
from bandit_serve.replication.results_log import changes_of
from bandit_serve.results import (
    Explanation,
    Report,
    ResultsFold,
    ResultsHistory,
    SegmentReport,
    explanation,
    report,
    results_history,
)

EVERY_S = 2.0


@with_state
@of_existing_store
async def results(
    node: Node,
    experiment: Experiment,
    by: Annotated[
        str | None, typer.Option(help="Split it by this context field, too.", show_default=False)
    ] = None,
    over_time: Annotated[
        bool, typer.Option("--over-time", help="Show what was known at past times, from the start on.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again whenever it has changed, until interrupted.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write it as a page of one file, with all segments.", show_default=False),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write its pictures as one; needs the extra png.", show_default=False)
    ] = None,
    theme: Annotated[Literal["light", "dark"], typer.Option(help="Of the picture.")] = "light",
    as_json: AsJson = False,
) -> None:
    """Shows what is known so far; it may be looked at at any time."""
    if over_time and by is not None and html is None:
        raise UsageError(
            "Segments are of now: leave out --over-time or --by, or write both into a page (--html)."
        )
    if png is not None:
        require("resvg_py", "png")
    shown: Report | ResultsHistory | None = None
    with output_file(html) as page, output_file(png) as picture:
        while True:
            live = await node.experiment_changes.known(experiment)
            now = await (_history(node, live) if over_time else _report(node, live, by))
            if _undated(now) != shown:
                if watch and not as_json and sys.stdout.isatty():
                    Terminal().clear()
                _print(now, live, as_json)
                shown = _undated(now)
                if page is not None or picture is not None:
                    await _draw(node, live, page, picture, theme, await _looked_up(node, live, now, by))
            if not watch:
                return
            await asyncio.sleep(EVERY_S)


@with_state
@of_existing_store
async def explain(node: Node, experiment: Experiment, as_json: AsJson = False) -> None:
    """Says in sentences what happened, why it is decided or not, and what would decide it."""
    live = await node.experiment_changes.known(experiment)
    record, as_of_ms = live.record, await node.store.time_ms()
    shares, changes = _shares(live, as_of_ms), changes_of(live)

    def read(fold: ResultsFold) -> Explanation:
        return explanation(fold, report(fold, record, shares, as_of_ms), changes)

    explained = await node.results.up_to_now(live, read)
    if as_json:
        print_json(explained)
        return
    for title, sentences in (
        ("What happened", explained.happened),
        ("Whether it is decided", explained.decided),
        ("What would decide it", explained.would_decide),
    ):
        say(f"{title}\n")
        for sentence in sentences:
            say(f"  {sentence}")
        say("")


async def _looked_up(
    node: Node, live: LiveExperiment, shown: Report | ResultsHistory, by: str | None
) -> SegmentReport | None:
    """Results by a field that was not declared: those just shown, where they are among them."""
    if by is None or by in (live.experiment.dimensions or ()):
        return None
    made = shown if isinstance(shown, Report) else await _report(node, live, by)
    return None if made.segments is UNSET else made.segments


async def _draw(
    node: Node,
    live: LiveExperiment,
    page: OutputFile | None,
    picture: OutputFile | None,
    theme: Theme,
    looked_up: SegmentReport | None,
) -> None:
    record, as_of_ms = live.record, await node.store.time_ms()
    shares, changes = _shares(live, as_of_ms), changes_of(live)

    def draw(fold: ResultsFold) -> None:
        shown = shown_of(fold, record, shares, changes, as_of_ms, looked_up)
        if page is not None:
            page.write(report_page(shown))
        if picture is not None:
            picture.write(report_png(shown, theme))

    await node.results.up_to_now(live, draw)


async def _report(node: Node, live: LiveExperiment, by: str | None) -> Report:
    as_of_ms = await node.store.time_ms()
    return await node.segmented_results.report(live, _shares(live, as_of_ms), as_of_ms, by)


async def _history(node: Node, live: LiveExperiment) -> ResultsHistory:
    return await node.results.up_to_now(live, results_history)


def _undated(answer: Report | ResultsHistory) -> Report | ResultsHistory:
    return msgspec.structs.replace(answer, as_of="") if isinstance(answer, Report) else answer


def _print(answer: Report | ResultsHistory, live: LiveExperiment, as_json: bool) -> None:
    made = live.experiment
    if as_json:
        print_json(answer)
    elif isinstance(answer, Report):
        print_results(answer, made)
        if answer.segments is not UNSET:
            print_segments(answer.segments, made)
    else:
        print_over_time(answer, made.objective.name, made.arm_names[made.control_arm])


def _shares(live: LiveExperiment, as_of_ms: int) -> dict[str, float]:
    return dict(zip(live.experiment.arm_names, live.current_shares(as_of_ms).tolist(), strict=True))
