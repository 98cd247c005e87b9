from typing import Final

from typing_extensions import disjoint_base

MAX_SPREADS: float

@disjoint_base
class FeatureLimits:
    LIMITS: Final[tuple[str, ...]]
    def __init__(self, n_features: int) -> None: ...
