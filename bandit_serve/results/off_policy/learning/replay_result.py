"""Results of a replay."""

from __future__ import annotations

from msgspec import Struct

from bandit_serve.results.off_policy.estimate import Estimate


class Curve(Struct, frozen=True, kw_only=True):
    """Mean reward of the first decisions of a run: their number, the doubly robust value, and its standard error."""

    decisions: tuple[int, ...]
    value: tuple[float, ...]
    standard_error: tuple[float, ...]


class ReplayResult(Struct, frozen=True, kw_only=True):
    """Mean reward of a policy over the first `horizon` decisions of a run, and the mean of that over `runs` runs.

    offered: decisions that all runs looked at. accepted: those that they took as their own. least_accepted: of the
    shortest run. shares: parts of the arms (K,) in the accepted ones. estimates: `replay`, the mean of accepted
    rewards, and `dr`, doubly robust; empty where there is a `refusal`.
    """

    runs: int
    horizon: int
    offered: int
    accepted: int
    least_accepted: int
    shares: tuple[float, ...]
    estimates: dict[str, Estimate]
    curve: Curve | None = None
    warnings: list[str] = []
    refusal: str | None = None
