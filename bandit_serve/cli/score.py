"""Command `bandit-serve score`: what a model says of the rows of files."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from msgspec import Struct

from bandit_serve.api.decisions import MAX_K
from bandit_serve.base.extras import require
from bandit_serve.base.secrets import shown_place
from bandit_serve.cli.access import following, store_url
from bandit_serve.cli.command import WHERE, AsJson, Tenant
from bandit_serve.cli.data_directory import require_data_directory
from bandit_serve.cli.output import print_json, say
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.errors import UsageError
from bandit_serve.export.formats import Format
from bandit_serve.export.places import Place, place_of, require_free
from bandit_serve.export.tables import EXTRA
from bandit_serve.scoring.assignments import Exposures, assign_files
from bandit_serve.scoring.batch import items_of, score_files
from bandit_serve.scoring.batch_file import BatchReport
from bandit_serve.scoring.model_source import ModelSource, of_file, of_version
from bandit_serve.scoring.question import BatchQuestion
from bandit_serve.scoring.row_files import RowFile, row_files
from bandit_serve.settings import Settings

MAX_WORKERS = 256


class ScoreReport(Struct, frozen=True):
    """Report of a batch. `by` is what answered: the version, `MODEL/VERSION`, the model file, or the experiment."""

    by: str
    out: str
    rows: int
    written: int
    rejected: int
    bytes: int
    seconds: float


@takes_settings(*WHERE)
def score(
    settings: Settings,
    rows: Annotated[
        str,
        typer.Argument(
            help="Parquet, JSON lines or CSV with user_id, and item_id: a file, a folder, or a URL that fsspec opens.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="File to write; a path or such a URL.", show_default=False)],
    version: Annotated[
        str | None,
        typer.Option(help="MODEL/VERSION, or MODEL for the one in production.", show_default=False),
    ] = None,
    model_file: Annotated[
        Path | None, typer.Option(help="A model file, in place of a version.", show_default=False)
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            help="Give each row's unit, or user_id, its arm in this experiment instead.", show_default=False
        ),
    ] = None,
    exposures: Annotated[
        Exposures, typer.Option(help="With --experiment: log them now, or later by their decision ids.")
    ] = "now",
    k: Annotated[
        int | None, typer.Option(help="The k best items of each user.", min=1, max=MAX_K, show_default=False)
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="File with item_id: all of them for each user, or with --k the best of them.",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Columns that are features: age,country.", show_default=False)
    ] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Add how much is known of each pair, 0 to 1.")
    ] = False,
    format_: Annotated[Format, typer.Option("--format", help="Of the file to write.")] = "parquet",
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=MAX_WORKERS)] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a dask scheduler, whose cluster scores; it has the model's file at the same path.",
            show_default=False,
        ),
    ] = None,
    rejects: Annotated[
        str | None,
        typer.Option(
            help="File for rows that can not be scored, with the reasons (default: the first one ends the command).",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Scores rows of files with a model, as the service answers them: pairs, the k best items, or users x items.

    With --experiment it assigns arms to units instead.

    bandit-serve score users.parquet --version ranker --k 10 --out best.parquet
    """
    require("pyarrow", EXTRA)
    signal.signal(signal.SIGTERM, _leave)
    if sum(each is not None for each in (version, model_file, experiment)) != 1:
        raise UsageError("Expected one of --version MODEL/VERSION, --model-file FILE and --experiment NAME.")
    if scheduler is not None and workers > 1:
        raise UsageError("Expected one of --workers and --scheduler.")
    if experiment is not None and (k or items or features or confidence or workers > 1 or scheduler):
        raise UsageError(
            "--experiment goes without --k, --items, --features, --confidence, --workers and --scheduler."
        )
    if experiment is None and exposures != "now":
        raise UsageError("--exposures goes with --experiment.")
    named = tuple(name for name in (features or "").split(",") if name)
    place = _free(out, "--out", overwrite=overwrite)
    told = None if rejects is None else _free(rejects, "--rejects", overwrite=overwrite)
    if told is not None and told.location == place.location:
        raise UsageError("--rejects: expected another file than --out.")
    files = row_files(rows)
    among = None if items is None else items_of(row_files(items))
    began_s = time.monotonic()
    if experiment is not None:
        assigning = _assigned(settings, experiment, tenant, files, place, format_, exposures, told)
        name, done = experiment, asyncio.run(assigning)
    else:
        if model_file is not None:
            name, source = str(model_file), of_file(model_file)
        else:
            name, source = asyncio.run(_registered(settings, version or "", tenant))
        question = BatchQuestion(k, among, named, confidence)
        done = score_files(
            files, source, question, place, format_, workers=workers, scheduler=scheduler, rejects=told
        )
    report = ScoreReport(
        name, shown_place(out), done.rows, done.written, done.rejected, done.bytes, time.monotonic() - began_s
    )
    if as_json:
        print_json(report)
        return
    say(
        f"{report.out}: {report.written:,} answers about {report.rows:,} rows by {report.by}, {report.bytes:,} bytes "
        f"in {report.seconds:.1f} s."
    )
    if rejects is not None and report.rejected:
        say(f"{shown_place(rejects)}: {report.rejected:,} rows that have none.")


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the command by an exception, so that what is not done is removed."""
    sys.exit(128 + number)


def _free(path: str, option: str, *, overwrite: bool) -> Place:
    """Place where nothing is, or a file that may be replaced. Raises `UsageError` for others."""
    place = place_of(path)
    require_free(place, option, overwrite=overwrite, one_file=True)
    return place


async def _registered(settings: Settings, named: str, tenant: str | None) -> tuple[str, ModelSource]:
    """Name and file of a version, `MODEL/VERSION`, or of the one in production."""
    require_data_directory(settings)
    model, _, version = named.partition("/")
    with store_url(settings) as url:
        async with following(settings, url, tenant) as node:
            registry = await node.model_changes.known()
            found = registry.version(model, version) if version else registry.production(model)
            source = await asyncio.to_thread(of_version, node.artifacts, found)
    return f"{found.model}/{found.version}", source


async def _assigned(
    settings: Settings,
    experiment: str,
    tenant: str | None,
    files: list[RowFile],
    out: Place,
    form: Format,
    exposures: Exposures,
    rejects: Place | None,
) -> BatchReport:
    require_data_directory(settings)
    with store_url(settings) as url:
        async with following(settings, url, tenant) as node:
            return await assign_files(
                node, experiment, files, out, form, exposures=exposures, rejects=rejects
            )
