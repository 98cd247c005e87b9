"""Kinds of metrics. `KINDS` is the table of those with rewards: a kind is one file here and one row there.

Contract suites then test it, and nothing else names it: a configuration, a policy, the results and the description of
the API ask `MetricKind` what it says of itself. `METRIC_KINDS` has what is made of other metrics, too.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping

from bandit_serve.metrics.binary import Binary
from bandit_serve.metrics.bounded import Bounded
from bandit_serve.metrics.continuous import Continuous
from bandit_serve.metrics.count import MAX_COUNT, Count
from bandit_serve.metrics.kind import MAX_VALUE, MetricKind, is_number
from bandit_serve.metrics.ratio import Ratio

KINDS: dict[str, type[MetricKind]] = {kind.name: kind for kind in (Binary, Bounded, Count, Continuous)}
METRIC_KINDS: Mapping[str, type[MetricKind]] = ChainMap({Ratio.name: Ratio}, KINDS)


def names_of(fits: Callable[[type[MetricKind]], bool]) -> frozenset[str]:
    """Names of the kinds that `fits` is true of."""
    return frozenset(name for name, kind in KINDS.items() if fits(kind))


__all__ = [
    "KINDS",
    "MAX_COUNT",
    "MAX_VALUE",
    "METRIC_KINDS",
    "Binary",
    "Bounded",
    "Continuous",
    "Count",
    "MetricKind",
    "Ratio",
    "is_number",
    "names_of",
]
