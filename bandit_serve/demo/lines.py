"""The display where output is not a terminal: a plain line now and then."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from bandit_serve.base.terminal import print_line
from bandit_serve.demo import wording
from bandit_serve.demo.display import Moment


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
                f"{arm['name']} {wording.percent(arm['share'])} (mean {wording.mean(float(mean))})"
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
