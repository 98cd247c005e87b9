"""Stub of the kernel `ext/results/segments.pyx`."""

from collections.abc import Sequence

from typing_extensions import disjoint_base

from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._follower import Follower

@disjoint_base
class SegmentFollower(Follower):
    sums: Accumulators
    def __init__(self, sums: Accumulators, sizes: Sequence[int], place: int) -> None: ...
