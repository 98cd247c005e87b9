"""The display on a terminal: what was done so far, and below it the traffic as it moves."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bandit_serve.demo import wording
from bandit_serve.demo.display import Moment
from bandit_serve.demo.trial import METRIC

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
            parts += [_arms(moment), Text(""), _regret(moment)]
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


def _arms(moment: Moment) -> RenderableType:
    arms: list[Any] = moment.results["arms"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("arm", no_wrap=True)
    table.add_column("share now", no_wrap=True)
    for name in ("visits", "mean", "95 % interval", "P(best)"):
        table.add_column(name, justify="right", no_wrap=True)
    most = max(arm["share"] for arm in arms)
    for number, arm in enumerate(arms):
        found = arm["metrics"][METRIC]
        table.add_row(
            arm["name"],
            _share(arm["share"]),
            f"{int(moment.tally.visits[number]):,}",
            wording.mean(found["mean"]),
            wording.interval(found["interval"]),
            wording.percent(found["probability_best"]),
            style="bold" if arm["share"] == most else "",
        )
    return table


def _share(share: float) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_column(width=SHARE_BAR_WIDTH)
    line.add_column(justify="right", width=5)
    bar = "━" * max(1, round(share * SHARE_BAR_WIDTH))
    line.add_row(Text(bar, style="green"), wording.percent(share))
    return line


def _regret(moment: Moment) -> RenderableType:
    tally = moment.tally
    return Text(
        f"regret against the best arm: {tally.regret:,.0f} likes "
        f"(an even split: {tally.regret_of_even_split:,.0f})",
        style="dim",
    )
