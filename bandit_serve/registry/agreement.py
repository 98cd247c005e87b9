"""Agreement of a shadow version's answers with those that were given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct


class Agreement(Struct, array_like=True):
    """Sums over pairs of scores that both versions gave for the same request; and over rankings.

    They add up over workers. `overlap` sums, over rankings, the part of the items that both have.
    """

    scores: int = 0
    live: float = 0.0
    shadow: float = 0.0
    live_squares: float = 0.0
    shadow_squares: float = 0.0
    products: float = 0.0
    absolutes: float = 0.0
    rankings: int = 0
    overlap: float = 0.0
    seconds: float = 0.0
    requests: int = 0
    dropped: int = 0
    failed: int = 0

    def add_scores(self, live: Sequence[float], shadow: Sequence[float]) -> None:
        for one, other in zip(live, shadow, strict=True):
            self.scores += 1
            self.live += one
            self.shadow += other
            self.live_squares += one * one
            self.shadow_squares += other * other
            self.products += one * other
            self.absolutes += abs(other - one)

    def add_ranking(self, live: Sequence[str], shadow: Sequence[str]) -> None:
        self.rankings += 1
        self.overlap += len(set(live) & set(shadow)) / max(1, len(live))

    def plus(self, other: Agreement) -> Agreement:
        names = self.__struct_fields__
        return Agreement(*(getattr(self, name) + getattr(other, name) for name in names))


class AgreementReport(Struct, frozen=True):
    """Agreement of a shadow with the live version. `difference` is shadow − live: mean, mean size, root mean square.

    `correlation` is Pearson's; `overlap` the mean part of a ranking's items that both have. What there is nothing for
    is null. `dropped`: requests that were not scored as too many waited; `failed`: those that the shadow could not
    answer.
    """

    model: str
    version: str
    requests: int
    scores: int
    mean_live: float | None
    mean_shadow: float | None
    mean_difference: float | None
    mean_absolute_difference: float | None
    rms_difference: float | None
    correlation: float | None
    rankings: int
    overlap: float | None
    mean_latency_ms: float | None
    dropped: int
    failed: int


def report(model: str, version: str, sums: Agreement) -> AgreementReport:
    n = sums.scores
    squares = sums.live_squares + sums.shadow_squares - 2 * sums.products
    return AgreementReport(
        model=model,
        version=version,
        requests=sums.requests,
        scores=n,
        mean_live=sums.live / n if n else None,
        mean_shadow=sums.shadow / n if n else None,
        mean_difference=(sums.shadow - sums.live) / n if n else None,
        mean_absolute_difference=sums.absolutes / n if n else None,
        rms_difference=math.sqrt(max(0.0, squares / n)) if n else None,
        correlation=_correlation(sums),
        rankings=sums.rankings,
        overlap=sums.overlap / sums.rankings if sums.rankings else None,
        mean_latency_ms=1000 * sums.seconds / sums.requests if sums.requests else None,
        dropped=sums.dropped,
        failed=sums.failed,
    )


def _correlation(sums: Agreement) -> float | None:
    n = sums.scores
    if n < 2:
        return None
    live_variation = sums.live_squares - sums.live * sums.live / n
    shadow_variation = sums.shadow_squares - sums.shadow * sums.shadow / n
    if live_variation <= 1e-12 * sums.live_squares or shadow_variation <= 1e-12 * sums.shadow_squares:
        return None
    return (sums.products - sums.live * sums.shadow / n) / math.sqrt(live_variation * shadow_variation)
