"""Display of the running demo: its protocol, a version without terminal, and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from bandit_serve.base.terminal import print_line
from bandit_serve.demo.traffic import Tally

if TYPE_CHECKING:
    from bandit_serve.client import Results


@dataclass(frozen=True, slots=True)
class Moment:
    """State of the traffic: the demo's counts, and the service's results, None before they were first read."""

    tally: Tally
    results: Results | None
    traffic_s: float

    @property
    def requests_per_second(self) -> float:
        return 2 * self.tally.done / max(self.traffic_s, 1e-9)


class Display(Protocol):
    """Protocol of displays. `every_s` is the pause between two moments. The text of `done` stays on the screen; all
    other text is replaced by the next call.
    """

    every_s: float

    def busy(self, text: str) -> None: ...

    def done(self, text: str) -> None: ...

    def moment(self, moment: Moment) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silence:
    """Display for `--json`, which shows nothing."""

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
                f"{arm.name} {percent_text(arm.share)} (mean {mean_text(float(mean))})"
                for arm, mean in zip(moment.results.arms, tally.means, strict=True)
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
    """Whole percents; values near 0 or 1 do not read as exactly that."""
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
