"""Times of attribution: how long a decision, its exposure and its reward are waited for and remembered, in one table.

A window is the experiment's own, between `MIN_WINDOW_MS` and `MAX_WINDOW_MS`. All else is the same for all.
"""

from __future__ import annotations

from bandit_serve.experiments.spec import MAX_WINDOW_MS, MIN_WINDOW_MS

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS

# On the way into the log

FLUSH_MS = 100
"""A worker appends its exposures so often."""
CLOCK_TOLERANCE_MS = 10_000
"""Store's clock and those of its callers may come so far apart before it is taken to have jumped."""
COUNTED_MS = _MINUTE_MS
"""So long after its window the store knows which rewards of a decision were counted."""
EXPOSED_MARK_MS = 7 * _DAY_MS
"""So long, by the log's time, a worker's mark outlives its last exposures."""
REPEATED_MS = EXPOSED_MARK_MS - COUNTED_MS
"""So long a worker may try to append the same exposures again."""

# In the folds, after the window has closed

BUCKETS = 256
"""Windows close together that began in one of so many parts of a window."""
EARLY_REWARD_MS = 10_000
"""So long a reward waits, in results, for its exposure, which is then taken for lost with its worker."""
GRACE_MS = 2 * _MINUTE_MS
"""So long a decision's shares, or its prediction, are kept: a reward that was in time may still come."""
LINGER_MS = _HOUR_MS
"""So long it is remembered which decisions were analysed, so that an exposure that still comes is not counted twice."""

# Keys of tokens

KEY_SETTLES_MS = 2 * _MINUTE_MS
"""A key signs when it is so old: every worker knows it by then."""

KEYS_READ_MS = 30_000
"""A worker reads the keys so often."""


def key_ends_ms(next_born_ms: int, longest_window_ms: int) -> int:
    """Until when a key may have signed a token whose window is open; `next_born_ms`: when the key after it was made."""
    return next_born_ms + 2 * KEY_SETTLES_MS + longest_window_ms


# Trimming

UNTRIMMED_MS = 5_000
"""An entry is so old before it may be trimmed."""
LAPSE_MS = 3_000
"""A reader that came to a log's end so long ago asks whether the log was trimmed since."""

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
