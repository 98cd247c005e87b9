from collections.abc import Sequence

from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._follower import Follower

class SegmentFollower(Follower):
    sums: Accumulators
    def __init__(self, sums: Accumulators, sizes: Sequence[int], place: int) -> None: ...
