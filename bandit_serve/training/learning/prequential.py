"""Prequential errors: those of a model on each rating before it learns from it."""

from __future__ import annotations

import bisect
import math
from collections import deque

from msgspec import Struct

WINDOW = 1_000
# Among how many latest errors each is ranked, at most; of half of them at least, once there are as many.
REFERENCES = (4_000, 20_000)
# At most so many false alarms a rating, on average.
LEVEL = 1e-6
PREQUENTIAL_METRICS = ("prequential.rmse", "prequential.mae", "window.rmse", "frozen.rmse")
POWERS = (0.3, 0.5, 0.7, 0.9)
# A statistic without an alarm is less, and so are all in a state.
MAX_BET = 1e12


class PrequentialState(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    n: int
    squares: float
    absolutes: float
    frozen_squares: float
    window: list[float]
    drift: list[float]
    wealth: list[float]
    alarmed_at: int | None
    # The lengths of the references. Without, `drift` and `wealth` are of a build that ranked in another way.
    lengths: list[int] = []


class _Reference:
    """Latest errors, `sizes` in their order and at most `most`, and bets that the next one is among the largest.

    p is the rank of an error's size among those before it, which is uniform while errors are exchangeable, and small
    when they grow; a bet pays ε p^(ε−1). `statistics`: of each ε, the Shiryaev–Roberts statistic of its bets, of
    which each R becomes (1 + R) · bet. When there is no room, the older half of the errors goes; what was bet stays.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.begin()

    def begin(self) -> None:
        self.sizes: list[float] = []
        self._ranked: list[float] = []
        self.statistics = [0.0] * len(POWERS)

    def restore(self, sizes: list[float], statistics: list[float]) -> None:
        self.sizes, self._ranked, self.statistics = list(sizes), sorted(sizes), list(statistics)

    def add(self, size: float) -> None:
        if len(self.sizes) == self._most:
            del self.sizes[: self._most // 2]
            self._ranked = sorted(self.sizes)
        # Ties count as half, which is as good as deciding them at random on average.
        below = bisect.bisect_left(self._ranked, size)
        equal = bisect.bisect_right(self._ranked, size) - below
        n = len(self._ranked) + 1
        p = (n - below - 0.5 * equal) / n
        self._ranked.insert(below, size)
        self.sizes.append(size)
        self.statistics = [
            min((1.0 + each) * power * p ** (power - 1.0), MAX_BET)
            for each, power in zip(self.statistics, POWERS, strict=True)
        ]


class Prequential:
    """Errors before learning from each rating (Dawid 1984), of the model and of the one that was frozen at its start.

    `drift_at` is the number of the rating at which errors were last found to be larger than they used to be; None
    before. Conformal bets (Vovk, Gammerman and Shafer 2005, chapter 7) that they are among the largest of the latest
    errors are added up by Shiryaev–Roberts statistics (Vovk et al. 2021, "Retrain or not retrain: conformal test
    martingales for change-point detection"), whose mean over all bets and references reaches 1,000,000 by chance at
    most once in 1,000,000 ratings on average, while errors do not grow. A statistic is never below what one bet
    pays, so it does not sink while a model improves; and each reference keeps at least half of what it had, so that
    there is always something to compare with, lately and for long. An alarm begins both anew.
    """

    def __init__(self) -> None:
        self.n = 0
        self._squares = self._absolutes = self._frozen_squares = 0.0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._references = [_Reference(most) for most in REFERENCES]
        self.drift_at: int | None = None

    def add(self, error: float, frozen_error: float) -> None:
        """Errors of the next rating: of the model, and of the frozen one."""
        self.n += 1
        size = abs(error)
        self._squares += error * error
        self._absolutes += size
        self._frozen_squares += frozen_error * frozen_error
        self._window.append(error * error)
        self._watch(size)

    def _watch(self, size: float) -> None:
        for reference in self._references:
            reference.add(size)
        statistics = [each for reference in self._references for each in reference.statistics]
        if sum(statistics) >= len(statistics) / LEVEL:
            self.drift_at = self.n
            for reference in self._references:
                reference.begin()

    def metrics(self) -> dict[str, float]:
        """`prequential.rmse` and `.mae` over all, `window.rmse` over the last 1,000, and `frozen.rmse`."""
        if not self.n:
            return {}
        values = (
            math.sqrt(self._squares / self.n),
            self._absolutes / self.n,
            math.sqrt(sum(self._window) / len(self._window)),
            math.sqrt(self._frozen_squares / self.n),
        )
        return dict(zip(PREQUENTIAL_METRICS, values, strict=True))

    def state(self) -> PrequentialState:
        return PrequentialState(
            self.n,
            self._squares,
            self._absolutes,
            self._frozen_squares,
            list(self._window),
            # The others are ends of the longest.
            list(self._references[-1].sizes),
            [statistic for each in self._references for statistic in each.statistics],
            self.drift_at,
            [len(each.sizes) for each in self._references],
        )

    @classmethod
    def from_state(cls, state: PrequentialState) -> Prequential:
        """Prequential errors of a state; `ValueError` where a reference is not whole."""
        errors = cls()
        errors.n = state.n
        errors._squares, errors._absolutes = state.squares, state.absolutes
        errors._frozen_squares = state.frozen_squares
        errors._window.extend(state.window)
        errors.drift_at = state.alarmed_at
        if state.lengths:
            n_powers = len(POWERS)
            ends = range(n_powers, len(state.wealth) + 1, n_powers)
            for reference, length, end in zip(errors._references, state.lengths, ends, strict=True):
                if not 0 <= length <= len(state.drift):
                    raise ValueError(f"a reference of {length} errors, of {len(state.drift)}")
                sizes = state.drift[len(state.drift) - length :]
                reference.restore(sizes, state.wealth[end - n_powers : end])
        return errors
