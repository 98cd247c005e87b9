"""Progress of a training run, on a terminal: the fits done, and the best of each family so far."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bandit_serve.base.terminal import Terminal
from bandit_serve.training.metrics import is_better
from bandit_serve.training.pipeline import TrainingProgress
from bandit_serve.training.plan import Plan

BAR_WIDTH = 40
STAGES = {
    "search": "searching hyper-parameters",
    "measure": "measuring the best",
    "final": "fitting on all ratings",
}


class TrainProgress:
    """Live table of a training on a terminal; elsewhere a line after each stage; nothing if `quiet`."""

    def __init__(self, plan: Plan, *, quiet: bool) -> None:
        self._plan = plan
        self._quiet = quiet
        self._console = Terminal(stderr=True)
        self._live = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._latest = TrainingProgress("search", 0, 1)
        # Of each family: fits, and the best value of the stage.
        self._best: dict[str, tuple[int, float]] = {}
        self._started_s = time.monotonic()

    def on_progress(self, progress: TrainingProgress) -> None:
        if progress.stage != self._latest.stage:
            self._best.clear()
        self._latest = progress
        if progress.trial is not None:
            metric = self._plan.measured(progress.trial.family)
            value = progress.trial.metrics.get(metric)
            fits, best = self._best.get(progress.trial.family, (0, None))
            if value is not None and (best is None or is_better(metric, value, best)):
                best = value
            if best is not None:
                self._best[progress.trial.family] = fits + 1, best
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif not self._quiet and progress.done == progress.planned:
            self._console.print(
                f"{STAGES[progress.stage]}: {progress.done} fits, {time.monotonic() - self._started_s:.1f} s",
                style="dim",
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._live.update(self._picture(), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()

    def _picture(self) -> RenderableType:
        latest = self._latest
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(
            latest.planned, latest.done, width=BAR_WIDTH, complete_style="cyan", finished_style="cyan"
        )
        line.add_row(bar, f"{STAGES[latest.stage]}: {latest.done} of {latest.planned} fits")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("family", no_wrap=True)
        table.add_column("fits", justify="right")
        table.add_column("best", justify="right")
        for family, (fits, best) in self._best.items():
            table.add_row(family, str(fits), f"{self._plan.measured(family)} {best:.4f}")
        return Group(line, table)
