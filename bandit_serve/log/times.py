"""Times of attribution in one table: waits for decisions, exposures and rewards, and lives of what is remembered.

A window is the experiment's own, between `MIN_WINDOW_MS` and `MAX_WINDOW_MS`. All else is the same for all.
"""

from __future__ import annotations

from bandit_serve.experiments.checks import MAX_WINDOW_MS, MIN_WINDOW_MS

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS

# On the way into the log

FLUSH_MS = 100
"""Pause between two flushes of a worker's exposures."""
CLOCK_TOLERANCE_MS = 10_000
"""Distance of the store's clock from a caller's, beyond which it is taken to have jumped."""
COUNTED_MS = _MINUTE_MS
"""After its window, the store knows for this long which rewards of a decision were counted."""
JOINED_MS = 2 * FLUSH_MS
"""Wait of a reward by unit for exposures of other workers that were decided before it and are not in the log yet."""
UNMATCHED_MS = _MINUTE_MS
"""Time for which a worker goes on looking for the exposure of a reward by unit that was unmatched."""
EXPOSED_MARK_MS = 7 * _DAY_MS
"""Life of the mark of a worker's last exposures, by the log's time."""
REPEATED_MS = EXPOSED_MARK_MS - COUNTED_MS
"""Time for which a worker may try to append the same exposures again."""

# In the folds, after the window has closed

BUCKETS = 256
"""Parts of a window: windows that began in one of them close together."""
EARLY_REWARD_MS = 10_000
"""Wait of a reward, in results, for its exposure, which is then taken for lost with its worker."""
GRACE_MS = 2 * _MINUTE_MS
"""A decision's shares, or its prediction, are kept for this long: a reward that was in time may still come."""
LINGER_MS = _HOUR_MS
"""Analysed decisions are remembered for this long, so that an exposure that still comes is not counted twice."""

# Keys of tokens

KEY_SETTLES_MS = 2 * _MINUTE_MS
"""Age of a key when it begins to sign: every worker knows it by then."""
KEYS_READ_MS = 30_000
"""Pause between two looks of a worker at the keys."""


def key_ends_ms(next_born_ms: int, longest_window_ms: int) -> int:
    """Last time, Unix milliseconds, at which a token of a key may have an open window.

    The key stopped signing after its successor was made, at `next_born_ms`.
    """
    return next_born_ms + 2 * KEY_SETTLES_MS + longest_window_ms


# Trimming

UNTRIMMED_MS = 5_000
"""Age of an entry before it may be trimmed."""
LAPSE_MS = 3_000
"""Age of a look at a log's end, after which a reader asks whether the log was trimmed since."""

assert 0 < MIN_WINDOW_MS < MAX_WINDOW_MS
assert 10 * FLUSH_MS <= EARLY_REWARD_MS, (
    "an exposure that is not lost comes before its reward is counted without it"
)
assert EARLY_REWARD_MS <= GRACE_MS, "shares are there while a reward waits for them"
assert GRACE_MS <= LINGER_MS, (
    "of whichever decision the shares are known, it is known whether it was analysed"
)
assert CLOCK_TOLERANCE_MS < COUNTED_MS, "no reward is in time by one clock and forgotten by the other"
assert 0 < REPEATED_MS < EXPOSED_MARK_MS, "the mark of the first try is there to tell"
assert FLUSH_MS < LINGER_MS < REPEATED_MS, (
    "what is tried again for days is told apart by its mark, not by the folds"
)
assert KEYS_READ_MS + CLOCK_TOLERANCE_MS < KEY_SETTLES_MS, (
    "by every worker's clock a key is known before it signs"
)
assert LAPSE_MS < UNTRIMMED_MS, "a reader that keeps up misses nothing that is trimmed"
