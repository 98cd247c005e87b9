from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._follower import Follower
from bandit_serve.results.room import State

@disjoint_base
class PairSums(Follower):
    SUMS: Final[tuple[str, ...]]
    @property
    def companions(self) -> Accumulators: ...
    @property
    def metrics(self) -> NDArray[np.int64]: ...
    @property
    def columns(self) -> NDArray[np.int64]: ...
    def __init__(
        self,
        sums: Accumulators,
        metrics: ArrayLike,
        columns: ArrayLike,
        companions: Accumulators | None = None,
        state: State | None = None,
    ) -> None: ...
    def restore(self, state: State) -> None: ...
    def state(self) -> State: ...
    def of_pair(self, pair: int) -> dict[str, NDArray[Any]]: ...
