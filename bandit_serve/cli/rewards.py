"""Commands `bandit-serve rewards`: rewards from files."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Annotated, NamedTuple, Self, TypeVar, get_args

import typer
from msgspec import UNSET, Struct
from rich.live import Live
from rich.text import Text

from bandit_serve.api.rewards import Reward, RewardVerdict
from bandit_serve.base.terminal import Terminal
from bandit_serve.cli.command import AsJson, of_existing_store, with_state
from bandit_serve.cli.output import print_facts, print_json, say
from bandit_serve.cli.reward_rows import FIELDS, Numbered, Occurrences, RewardFile, RewardRow
from bandit_serve.errors import InvalidInput, Unavailable
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.node import Node
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.rewards.by_unit import RewardsByUnit
from bandit_serve.rewards.client_metrics import ClientMetrics
from bandit_serve.rewards.order import rounds
from bandit_serve.rewards.rewards import Rewards

app = typer.Typer(help="Rewards from files.", no_args_is_help=True)

BATCH_ROWS = 2_000
MAX_FAULTS = 10
PATIENCE_S = 60.0
"""Time for which a batch is tried again while the store is away."""

T = TypeVar("T")


class InvalidRow(Struct, frozen=True):
    """Row that is no reward: its file, its line (in Parquet its row), and what was expected."""

    file: str
    line: int
    detail: str


class ImportReport(Struct, frozen=True):
    """Numbers of rows by verdict; `rows` is that of all. `faults` are the first `MAX_FAULTS` of the invalid."""

    experiment: str
    files: list[str]
    rows: int
    accepted: int
    corrected: int
    retracted: int
    duplicate: int
    conflict: int
    late: int
    unmatched: int
    unknown: int
    invalid: int
    seconds: float
    faults: list[InvalidRow]


def _columns(text: str | None) -> dict[str, str]:
    columns = {}
    for part in (text or "").split(",") if text else ():
        field, equals, name = part.partition("=")
        if not equals or not name or field not in FIELDS or field in columns:
            raise typer.BadParameter(
                f"expected pairs such as unit=customer,value=revenue, of {', '.join(FIELDS)}, not {part!r}"
            )
        columns[field] = name
    return columns


@app.command("import")
@with_state
@of_existing_store
async def import_rewards(
    node: Node,
    files: Annotated[
        list[Path],
        typer.Argument(help="CSV, JSON lines (both gzipped or not) or Parquet.", show_default=False),
    ],
    experiment: Annotated[str, typer.Option(help="The experiment's name.", show_default=False)],
    columns: Annotated[
        str | None,
        typer.Option(
            help="Names of columns, where they are others than unit or decision_id, value, metric, event_id and at: "
            "unit=customer,value=revenue."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The metric of rows without one (default: the objective).")
    ] = None,
    retract_nulls: Annotated[
        bool, typer.Option("--retract-nulls", help="A value that is null takes its event back.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Counts rewards by unit or by decision from files. The same file may be imported again: each event counts once."""
    named = _columns(columns)
    live = node.replica.experiment(experiment)
    if metric is not None and metric not in ClientMetrics(live.record):
        raise InvalidInput(f"The experiment {experiment!r} has no metric {metric!r} that is sent.")
    opened = [await asyncio.to_thread(RewardFile, path, named, retract_nulls=retract_nulls) for path in files]
    importing = Import(live, metric, node.replica, await _patiently(lambda: _intake(node)))
    started_s = time.monotonic()
    with Progress(quiet=as_json) as progress:
        for file in opened:
            await importing.read(file, progress)
    report = importing.report([file.name for file in opened], time.monotonic() - started_s)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report.invalid or report.unknown:
        raise typer.Exit(1)


async def _intake(node: Node) -> tuple[Rewards, RewardsByUnit]:
    rewards = Rewards(node.store, node.replica, node.tail, await load_keyring(node.store))
    return rewards, RewardsByUnit(
        node.store,
        node.replica,
        node.tail,
        node.exposures,
        rewards.appender_of,
        _nothing_to_flush,
        unmatched_ms=0,
    )


async def _nothing_to_flush() -> None:
    """A command makes no decisions."""


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats a call that counts nothing twice, while the store is away, for `PATIENCE_S`."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call()
        except Unavailable as error:
            if time.monotonic() + error.retry_after_s > until_s:
                raise
            await asyncio.sleep(error.retry_after_s)


class Answer(NamedTuple):
    """Answer to a row: the number of its line, its verdict, and why it is invalid."""

    number: int
    verdict: RewardVerdict
    detail: str | None


class Import:
    """Import into one experiment: batches of rows, submitted one after another, and counts of their verdicts."""

    def __init__(
        self,
        live: LiveExperiment,
        metric: str | None,
        replica: Replica,
        intake: tuple[Rewards, RewardsByUnit],
    ) -> None:
        self._replica = replica
        self._live = live
        self._metric = metric
        self._rewards, self._by_unit = intake
        self._counts: Counter[RewardVerdict] = Counter()
        self._rows = 0
        self._faults: list[InvalidRow] = []

    async def read(self, file: RewardFile, progress: Progress) -> None:
        """Submits all rows of a file. Raises `InvalidInput` where it can not be read on; what came before counts."""
        occurrences = Occurrences()
        rows = file.rows()
        try:
            while batch := await asyncio.to_thread(self._next_batch, rows, occurrences):
                await self._submit(file.name, batch)
                progress.show(self._rows, self._counts)
        finally:
            occurrences.close()

    def _next_batch(self, rows: Iterator[Numbered], occurrences: Occurrences) -> list[Numbered]:
        batch = []
        for number, row in islice(rows, BATCH_ROWS):
            if isinstance(row, RewardRow):
                row = row._replace(metric=row.metric or self._metric)
                if row.event_id is None and row.unit is not None:
                    row = row._replace(event_id=occurrences.event_id(row))
            batch.append((number, row))
        return batch

    async def _submit(self, name: str, batch: Sequence[Numbered]) -> None:
        answers: list[Answer] = []
        numbered: list[tuple[int, Reward]] = []
        for number, row in batch:
            if isinstance(row, str):
                answers.append(Answer(number, "invalid", row))
            else:
                numbered.append((number, self._reward(row)))
        sent = [reward for _, reward in numbered]
        taken = await _patiently(lambda: rounds(self._rewards, self._replica, sent))
        for i, places in enumerate(taken):
            if places:
                intake = self._by_unit if i % 2 else self._rewards
                answers += await _submitted(intake, [numbered[place] for place in places])
        for number, verdict, detail in sorted(answers):
            self._counts[verdict] += 1
            self._rows += 1
            if detail is not None and len(self._faults) < MAX_FAULTS:
                self._faults.append(InvalidRow(name, number, detail))

    def _reward(self, row: RewardRow) -> Reward:
        if row.decision_id is not None:
            return Reward(row.decision_id, row.value, row.metric, row.event_id)
        return Reward(
            value=row.value,
            metric=row.metric,
            event_id=row.event_id,
            experiment=self._live.experiment.id,
            unit=UNSET if row.unit is None else row.unit,
            at=UNSET if row.at is None else row.at,
        )

    def report(self, files: list[str], seconds: float) -> ImportReport:
        verdicts: tuple[RewardVerdict, ...] = get_args(RewardVerdict)
        counts = {verdict: self._counts[verdict] for verdict in verdicts}
        return ImportReport(
            experiment=self._live.experiment.id,
            files=files,
            rows=self._rows,
            seconds=round(seconds, 3),
            faults=self._faults,
            **counts,
        )


async def _submitted(intake: Rewards | RewardsByUnit, numbered: Sequence[tuple[int, Reward]]) -> list[Answer]:
    rewards = [reward for _, reward in numbered]
    verdicts = await _patiently(lambda: intake.submit(rewards))
    answers = []
    for (number, reward), verdict in zip(numbered, verdicts, strict=True):
        detail = None
        if verdict == "invalid":
            why = intake.refusal(reward) or (
                "decision_id",
                "expected the decision_id of one of our decisions",
            )
            detail = ": ".join(why)
        answers.append(Answer(number, verdict, detail))
    return answers


class Progress:
    """Line on a terminal with what has been read so far; elsewhere, or if `quiet`, nothing."""

    def __init__(self, *, quiet: bool) -> None:
        console = Terminal(stderr=True)
        self._live = None
        if console.is_terminal and not quiet:
            self._live = Live(console=console, transient=True, refresh_per_second=4)
        self._started_s = time.monotonic()

    def show(self, rows: int, counts: Counter[RewardVerdict]) -> None:
        if self._live is not None:
            speed = rows / max(time.monotonic() - self._started_s, 1e-3)
            figures = ", ".join(f"{n:,} {verdict}" for verdict, n in counts.most_common())
            self._live.update(Text(f"{rows:,} rows, {speed:,.0f}/s: {figures}"))

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()


MEANINGS: dict[RewardVerdict, str] = {
    "accepted": "counted now",
    "corrected": "counted before, with another value",
    "retracted": "counted before, and taken back",
    "duplicate": "counted before",
    "conflict": "the decision has another reward without an event_id",
    "late": "the attribution window had closed",
    "unmatched": "no exposure of the unit was in force",
    "unknown": "the experiment does not exist any more",
    "invalid": "not a reward",
}


def _print(report: ImportReport) -> None:
    say(f"{report.rows:,} rows into {report.experiment} in {report.seconds:.1f} s")
    counts = {verdict: getattr(report, verdict) for verdict in MEANINGS}
    print_facts([(name, f"{n:>9,}  {MEANINGS[name]}") for name, n in counts.items() if n])
    for fault in report.faults:
        say(f"{fault.file}, line {fault.line}: {fault.detail}")
    if report.invalid > len(report.faults):
        say(f"… and {report.invalid - len(report.faults):,} more invalid rows")
