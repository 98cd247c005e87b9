"""Buckets of decisions by time, whose windows close together."""

from __future__ import annotations

import math

from bandit_serve.log.times import BUCKETS


class Buckets:
    """Arithmetic of buckets. Bucket b has the decisions of `width_ms` from b · `width_ms` on, in Unix milliseconds."""

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.width_ms = max(1, math.ceil(window_ms / BUCKETS))

    def closes_ms(self, bucket: int) -> int:
        """Last time at which a window in the bucket may be open."""
        return (bucket + 1) * self.width_ms + self.window_ms
