from typing import Final

from typing_extensions import disjoint_base

@disjoint_base
class Regressions:
    FACTORS: Final[tuple[str, ...]]
    def __init__(self, n_models: int, order: int, *, logistic: bool, precision: float) -> None: ...
