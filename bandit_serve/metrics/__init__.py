"""Kinds of metrics. `KINDS` is the table of all: a kind is one file here and one row there.

Contract suites then test it, and nothing else names it: a configuration, a policy, the results and the description of
the API ask `MetricKind` what it says of itself.
"""

from collections.abc import Callable

from bandit_serve.metrics.binary import Binary
from bandit_serve.metrics.bounded import Bounded
from bandit_serve.metrics.continuous import Continuous
from bandit_serve.metrics.count import MAX_COUNT, Count
from bandit_serve.metrics.kind import MAX_VALUE, MetricKind, is_number

KINDS: dict[str, type[MetricKind]] = {kind.name: kind for kind in (Binary, Bounded, Count, Continuous)}


def names_of(fits: Callable[[type[MetricKind]], bool]) -> frozenset[str]:
    """Names of the kinds that `fits` is true of."""
    return frozenset(name for name, kind in KINDS.items() if fits(kind))


__all__ = [
    "KINDS",
    "MAX_COUNT",
    "MAX_VALUE",
    "Binary",
    "Bounded",
    "Continuous",
    "Count",
    "MetricKind",
    "is_number",
    "names_of",
]
