"""Progress of a simulation, on a terminal: the runs done, and how each policy compares so far."""

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
from bandit_serve.simulation.description import Simulation
from bandit_serve.simulation.trial import SimulatedTrial

BAR_WIDTH = 40
EVERY_S = 0.1


class SimulationProgress:
    """Live table of a simulation on standard error, if that is a terminal and not `quiet`."""

    def __init__(self, simulation: Simulation, *, quiet: bool) -> None:
        self._names = [contender.name for contender in simulation.contenders]
        self._planned = simulation.seeds * len(self._names)
        self._horizon = simulation.horizon
        self._regrets: list[list[float]] = [[] for _ in self._names]
        console = Terminal(stderr=True)
        self._live = None
        if console.is_terminal and not quiet:
            self._live = Live(console=console, transient=True, auto_refresh=False)
        self._started_s = self._shown_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def on_trial(self, contender: int, number: int, trial: SimulatedTrial) -> None:
        self._regrets[contender].append(float(trial.regret[-1]))
        now_s = time.monotonic()
        if self._live is not None and now_s - self._shown_s > EVERY_S:
            self._shown_s = now_s
            self._live.update(self._picture(), refresh=True)

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
        done = sum(map(len, self._regrets))
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(self._planned, done, width=BAR_WIDTH, complete_style="cyan", finished_style="cyan")
        line.add_row(
            bar,
            f"{done:,} of {self._planned:,} runs",
            f"{done * self._horizon / max(self.elapsed_s, 1e-9):,.0f} decisions/s",
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("policy", no_wrap=True)
        table.add_column("runs", justify="right")
        table.add_column("regret so far", justify="right")
        for name, regrets in zip(self._names, self._regrets, strict=True):
            mean = f"{sum(regrets) / len(regrets):,.1f}" if regrets else "–"
            table.add_row(name, str(len(regrets)), mean)
        return Group(line, table)
