"""How a model does on ratings that it has not learned from yet, one after another."""

from __future__ import annotations

import bisect
import math
from collections import deque

from msgspec import Struct

WINDOW = 1_000
RANKED = 20_000
LEVEL = 0.001
POWERS = (0.3, 0.5, 0.7, 0.9)


class _State(Struct, array_like=True):
    n: int
    squares: float
    absolutes: float
    frozen_squares: float
    window: list[float]
    drift: list[float]
    wealth: list[float]
    alarmed_at: int | None


class Prequential:
    """Errors before learning from each rating (Dawid 1984), of the model and of the one that was frozen at its start.

    `drift_at` is the number of the rating at which errors were found to be larger than they used to be; None before.
    That is a conformal test martingale (Vovk, Gammerman and Shafer 2005, chapter 7): p is the rank of an error among
    all before it, which is uniform while errors are exchangeable, and small when they grow; the bets are ε p^(ε−1),
    mixed over four ε. Their wealth reaches 1,000 with a probability of .001 at most, at any time, while errors do not
    grow. It starts anew every 20,000 ratings.
    """

    def __init__(self) -> None:
        self.n = 0
        self._squares = self._absolutes = self._frozen_squares = 0.0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._ranked: list[float] = []
        self._wealth = [0.0] * len(POWERS)
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
        if len(self._ranked) == RANKED:
            self._ranked, self._wealth = [], [0.0] * len(POWERS)
        # Ties count as half, which is as good as deciding them at random on average.
        below = bisect.bisect_left(self._ranked, size)
        equal = bisect.bisect_right(self._ranked, size) - below
        n = len(self._ranked) + 1
        p = (n - below - equal + 0.5 * equal) / n if n > 1 else 1.0
        self._ranked.insert(below, size)
        self._wealth = [
            wealth + math.log(power) + (power - 1.0) * math.log(p)
            for wealth, power in zip(self._wealth, POWERS, strict=True)
        ]
        most = max(self._wealth)
        log_wealth = most + math.log(sum(math.exp(each - most) for each in self._wealth) / len(POWERS))
        if log_wealth >= -math.log(LEVEL):
            self.drift_at = self.n
            self._ranked, self._wealth = [], [0.0] * len(POWERS)

    def metrics(self) -> dict[str, float]:
        """`prequential.rmse` and `.mae` over all, `window.rmse` over the last 1,000, and `frozen.rmse`."""
        if not self.n:
            return {}
        return {
            "prequential.rmse": math.sqrt(self._squares / self.n),
            "prequential.mae": self._absolutes / self.n,
            "window.rmse": math.sqrt(sum(self._window) / len(self._window)),
            "frozen.rmse": math.sqrt(self._frozen_squares / self.n),
        }

    def state(self) -> _State:
        return _State(
            self.n,
            self._squares,
            self._absolutes,
            self._frozen_squares,
            list(self._window),
            list(self._ranked),
            list(self._wealth),
            self.drift_at,
        )

    def restore(self, state: _State) -> None:
        self.n = state.n
        self._squares, self._absolutes = state.squares, state.absolutes
        self._frozen_squares = state.frozen_squares
        self._window.clear()
        self._window.extend(state.window)
        self._ranked, self._wealth = list(state.drift), list(state.wealth)
        self.drift_at = state.alarmed_at


PrequentialState = _State
