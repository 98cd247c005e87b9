"""What a demo shows while it runs: one protocol; on a terminal, in a file, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from bandit_serve.demo.tally import Tally


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stand: our own counts, and the service's results (None until they were first asked for)."""

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
