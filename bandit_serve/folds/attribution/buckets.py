"""Buckets of decisions by their time: windows that close together."""

from __future__ import annotations

import math

from bandit_serve.log.times import BUCKETS


class Buckets:
    """Times are Unix milliseconds; a bucket's decisions were made in `width_ms` from bucket · `width_ms` on."""

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.width_ms = max(1, math.ceil(window_ms / BUCKETS))

    def closes_ms(self, bucket: int) -> int:
        """Last time at which the window of one of its decisions may be open."""
        return (bucket + 1) * self.width_ms + self.window_ms
