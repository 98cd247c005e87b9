"""Keywords that constructors of policies take. Written by `keyword_types` from the declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from numpy.typing import ArrayLike

from bandit_serve.policies.numbers import ByArm


class TermsKeywords(TypedDict, total=False):
    objective: str
    low: float | None
    high: float | None
    min_share: float
    max_share: float
    warmup: int
    half_life: str | None
    refresh: str
    holdout: float


class ContextFreeKeywords(TermsKeywords, total=False):
    pseudo_history: Mapping[str, Any] | None
    seed: int | None


class ContextualKeywords(TermsKeywords, total=False):
    arm_features: ArrayLike | None
    seed: int | None


class FixedSplitKeywords(ContextFreeKeywords, total=False):
    shares: ByArm | None


class EpsilonGreedyKeywords(ContextFreeKeywords, total=False):
    epsilon: float
    decay: float


class SoftmaxKeywords(ContextFreeKeywords, total=False):
    temperature: float | None


class UCB1Keywords(ContextFreeKeywords, total=False):
    sigma: float | None


class KLUCBKeywords(ContextFreeKeywords, total=False):
    pass


class ThompsonKeywords(ContextFreeKeywords, total=False):
    prior: Mapping[str, ByArm | None] | None


class TopTwoThompsonKeywords(ContextFreeKeywords, total=False):
    prior: Mapping[str, ByArm | None] | None
    beta: float


class Exp3Keywords(ContextFreeKeywords, total=False):
    gamma: float | None


class LinUCBKeywords(ContextualKeywords, total=False):
    alpha: float
    prior: Mapping[str, ByArm | None] | None


class LinTSKeywords(ContextualKeywords, total=False):
    scale: float
    prior: Mapping[str, ByArm | None] | None


class LogisticTSKeywords(ContextualKeywords, total=False):
    scale: float
    prior: Mapping[str, ByArm | None] | None


class SquareCBKeywords(ContextualKeywords, total=False):
    gamma: float | None
    optimism: float
    prior: Mapping[str, ByArm | None] | None
