"""Display of the demo while it runs: a protocol, plain lines where there is no terminal, and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from bandit_serve.base.terminal import print_line
from bandit_serve.demo.traffic import Tally


@dataclass(frozen=True, slots=True)
class Moment:
    """State of the traffic: our own counts, and the service's results (None until they were first asked for)."""

    tally: Tally
    results: Any
    traffic_s: float

    @property
    def requests_per_second(self) -> float:
        return 2 * self.tally.done / max(self.traffic_s, 1e-9)


class Display(Protocol):
    """`every_s` is how often it wants a moment. What `done` says stays; all else goes with the next call."""

    every_s: float

    def busy(self, text: str) -> None: ...

    def done(self, text: str) -> None: ...

    def moment(self, moment: Moment) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silence:
    """For `--json`."""

    every_s = 5.0

    def busy(self, text: str) -> None:
        pass

    def done(self, text: str) -> None:
        pass

    def moment(self, moment: Moment) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Lines:
    every_s = 3.0

    def busy(self, text: str) -> None:
        pass

    def done(self, text: str) -> None:
        print_line(text)

    def moment(self, moment: Moment) -> None:
        tally = moment.tally
        arms = ""
        if moment.results is not None:
            arms = ", ".join(
                f"{arm['name']} {percent_text(arm['share'])} (mean {mean_text(float(mean))})"
                for arm, mean in zip(moment.results["arms"], tally.means, strict=True)
            )
        print_line(
            f"{tally.done} of {tally.planned} visits, {moment.requests_per_second:.0f} requests/s, "
            f"shares: {arms}; regret {tally.regret:.0f} (even split: {tally.regret_of_even_split:.0f})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


NONE = "-"


def percent_text(share: float | None) -> str:
    """Whole percents; what is not quite none or all does not read as if it were."""
    if share is None:
        return NONE
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def mean_text(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def interval_text(ends: Sequence[float] | None) -> str:
    return NONE if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def difference_text(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return NONE
    return f"{value:+.3f} {interval_text(ends)}" if ends is not None else f"{value:+.3f}"
