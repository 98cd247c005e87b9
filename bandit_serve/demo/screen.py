"""Terminal display of the demo: a live view of work and traffic, and the printed outcome."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bandit_serve.demo.display import Moment, difference_text, interval_text, mean_text, percent_text
from bandit_serve.demo.experiment import METRIC, MODEL
from bandit_serve.demo.summary import Summary, regret_sentence, winner_sentence

if TYPE_CHECKING:
    from bandit_serve.client import ArmResult

VALID = (
    "The 95 % intervals hold whenever one looks and however the bandit moved the traffic; "
    "P(best) is an aid, not a test."
)
SHARE_BAR_WIDTH = 16
TRAFFIC_BAR_WIDTH = 40


class Screen:
    every_s = 0.5

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, transient=True, refresh_per_second=8)

    def busy(self, text: str) -> None:
        self._live.update(Spinner("dots", Text(f" {text} …"), style="cyan"))

    def done(self, text: str) -> None:
        self._live.update(Text(""))
        line = Table.grid(padding=(0, 1))
        line.add_row(Text("✓", style="green"), Text(text))
        self._live.console.print(line)

    def moment(self, moment: Moment) -> None:
        parts: list[RenderableType] = [Text(""), _traffic(moment), Text("")]
        if moment.results is not None:
            parts += [_arms(moment, moment.results.arms), Text(""), _regret(moment)]
        self._live.update(Group(*parts))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""))
        self._live.stop()


def _traffic(moment: Moment) -> RenderableType:
    tally = moment.tally
    line = Table.grid(padding=(0, 2))
    line.add_row(
        ProgressBar(
            tally.planned, tally.done, width=TRAFFIC_BAR_WIDTH, complete_style="cyan", finished_style="cyan"
        ),
        f"{tally.done:,} visits",
        f"{moment.requests_per_second:,.0f} requests/s",
    )
    return line


def _arms(moment: Moment, arms: Sequence[ArmResult]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("arm", no_wrap=True)
    table.add_column("share now", no_wrap=True)
    for name in ("visits", "mean", "95 % interval", "P(best)"):
        table.add_column(name, justify="right", no_wrap=True)
    most = max(arm.share for arm in arms)
    for number, arm in enumerate(arms):
        metric = arm.metrics[METRIC]
        table.add_row(
            arm.name,
            _share(arm.share),
            f"{int(moment.tally.visits[number]):,}",
            mean_text(metric.mean),
            interval_text(metric.interval),
            percent_text(metric.probability_best),
            style="bold" if arm.share == most else "",
        )
    return table


def _share(share: float) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_column(width=SHARE_BAR_WIDTH)
    line.add_column(justify="right", width=5)
    bar = "━" * max(1, round(share * SHARE_BAR_WIDTH))
    line.add_row(Text(bar, style="green"), percent_text(share))
    return line


def _regret(moment: Moment) -> RenderableType:
    tally = moment.tally
    return Text(
        f"regret against the best arm: {tally.regret:,.0f} likes "
        f"(an even split: {tally.regret_of_even_split:,.0f})",
        style="dim",
    )


def print_closing(console: Console, summary: Summary) -> None:
    console.print()
    console.print(_closing_table(summary))
    console.print()
    console.print(Text(winner_sentence(summary), style="bold"))
    console.print(regret_sentence(summary))
    console.print(VALID, style="dim")
    console.print()
    console.print(Text.assemble(("Where to look next", "bold")))
    _print_next(console, summary)


def _closing_table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\narm", no_wrap=True)
    table.add_column("\nmodel", no_wrap=True)
    for name in ("\nvisits", "last\nfifth", "\nmean", "true\nmean"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("difference to control\nand its 95 % interval", no_wrap=True)
    table.add_column("P\n(best)", justify="right", no_wrap=True)
    for arm in summary.arms:
        table.add_row(
            arm.arm,
            arm.version,
            f"{arm.visits:,}",
            percent_text(arm.share_of_last_fifth),
            mean_text(arm.mean),
            mean_text(arm.true_mean),
            "control"
            if arm.arm == summary.control
            else difference_text(arm.difference, arm.difference_interval),
            percent_text(arm.probability_best),
            style="bold green" if arm.arm == summary.won else "",
        )
    return table


def _print_next(console: Console, summary: Summary) -> None:
    if summary.url is None:
        console.print("  bandit-serve demo --keep        leaves the service up and says what to ask it")
        console.print("  bandit-serve serve --data DIR   runs a service of your own")
        return
    experiment = f"{summary.url}/v1/experiments/{summary.experiment}"
    for what, url in (
        ("results", f"{experiment}/results"),
        ("changes", f"{experiment}/history"),
        ("the service", f"{summary.url}/v1/stats"),
        ("for Prometheus", f"{summary.url}/metrics"),
        ("its versions", f"{summary.url}/v1/models/{MODEL}"),
    ):
        console.print(Text.assemble(f"  curl -s {url}", (f"  # {what}", "dim")), soft_wrap=True)
    console.print(f"The service stays up at {summary.url} until Ctrl-C.", soft_wrap=True)
