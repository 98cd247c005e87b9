"""Floors of shares, by revision: without one under an adaptive policy no interval is valid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.policy_spec import PolicySpec


def unfloored(policy: PolicySpec) -> bool:
    """Return whether shares follow the outcomes and may come as near to 0 as they like.

    No `min_share` means the served default, which is positive, except for `fixed_split`: its shares do not
    follow the outcomes, and those that are stated are the floor. A holdout is a floor too.
    """
    return policy.kind != "fixed_split" and policy.min_share == 0.0 and not policy.holdout


class Floors:
    """`unfloored` by revision of the experiment: a revision holds until the next that is known."""

    def __init__(self, revisions: NDArray[np.uint32], flags: NDArray[np.uint8]) -> None:
        self.revisions = revisions
        self.flags = flags

    @classmethod
    def from_state(cls, revisions: NDArray[Any], flags: NDArray[Any]) -> Floors:
        """Floors of a state; `ValueError` unless it has one flag for each of one or more ascending revisions."""
        is_whole = revisions.dtype == np.uint32 and flags.dtype == np.uint8 and revisions.ndim == 1
        if not is_whole or revisions.shape != flags.shape:
            raise ValueError("the snapshot does not say of every revision whether it has a floor")
        if not len(revisions) or (revisions[1:] <= revisions[:-1]).any():
            raise ValueError("the snapshot's revisions do not grow")
        return cls(revisions, flags)

    @classmethod
    def since(cls, revision: int, policy: PolicySpec) -> Floors:
        return cls(np.array([revision], np.uint32), np.array([unfloored(policy)], np.uint8))

    def learn(self, revision: int, policy: PolicySpec) -> None:
        by_revision = dict(zip(self.revisions.tolist(), self.flags.tolist(), strict=True))
        by_revision[revision] = int(unfloored(policy))
        known = sorted(by_revision)
        self.revisions = np.array(known, np.uint32)
        self.flags = np.array([by_revision[revision] for revision in known], np.uint8)

    def of(self, revisions: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Flags, uint8 (n,): 1 where the decision's revision has no floor."""
        at = self.revisions.searchsorted(revisions, side="right")
        return self.flags[np.maximum(at - 1, 0)]
