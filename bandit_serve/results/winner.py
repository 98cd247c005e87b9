"""Winner that a result names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats


def winner_of(
    gain: Floats,
    standing: NDArray[np.bool_],
    control: int,
    there: NDArray[np.bool_],
    unharmful: NDArray[np.bool_],
) -> int | None:
    """Arm of the largest gain on control among those with a shown gain; control if all others are shown to lose.

    `standing` bool (K,) says whose difference is shown. `gain` (K,) is each arm's difference to control in the
    direction of the goal, NaN where there is none. An arm that is not `there` any more, bool (K,), is passed over, and
    one that is not `unharmful`, bool (K,), does not win.
    """
    others = there & (np.arange(len(gain)) != control)
    better = others & standing & unharmful & (gain > 0)
    if better.any():
        return int(np.argmax(np.where(better, gain, -np.inf)))
    worse = others & standing & (gain < 0)
    return control if others.any() and bool(worse[others].all()) else None
