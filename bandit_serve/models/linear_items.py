"""Linear model of items: a preference is a weighted sum over the items that the user interacted with."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np

from bandit_serve.models.descent import OnEpoch
from bandit_serve.models.hyper_parameters import Epochs, HyperParameters, Seed, made_of
from bandit_serve.models.interactions import Interactions, gram_matrix
from bandit_serve.models.leading_span import drawn_span, energy_of, kept_vectors, turned
from bandit_serve.models.preference_learner import Geometry
from bandit_serve.models.preferences import Fit, PreferenceFactors, Preferences, Ridge, Share
from bandit_serve.models.ranges import LogUniform, Space
from bandit_serve.models.row_threads import RowThreads

# Below 1, where an item would be what the others say of it and nothing else.
MAX_LEVERAGE = 1.0 - 1e-6


class LinearItemsParameters(HyperParameters, frozen=True):
    n_factors: PreferenceFactors = 48
    seed: Seed = 0
    n_epochs: Epochs = 4
    regularization: Ridge = 0.01
    user_damping: Share = 0.25
    interaction_share: Share = 0.5
    weight_exponent: Share = 1.0


class LinearItems(Preferences):
    """r̂_ui = Σ_j x_uj B_ji: the regression of every item on all others (EASE, Steck 2019), of low rank.

    B minimizes Σ_u d_u² |x_u − x_u B|² + λ |B|² with a diagonal of 0. With W = (d_u x_u) and P = (WᵀW + λI)⁻¹ it is
    B_ji = −P_ji / P_ii (Steck 2019, eq. 8). P is taken on the span Q, (n_items, f), of the f leading eigenvectors of
    WᵀW, which turns of subspace iteration come near: with T = QᵀWᵀWQ and VVᵀ = Q T (T + λI)⁻¹ Qᵀ,

        λP = I − VVᵀ on the span,  B_ji = v_j·v_i / (1 − |v_i|²),  p_u = Σ_j x_uj v_j,  q_i = v_i / (1 − |v_i|²)

    So there is no matrix of n_items², and with as many factors as the rank of W it is EASE itself, but for what an item
    says of itself: it counts for items that the user has, which rankings of the unseen leave out.

    Parameters
    ----------
    n_factors : 1 to 1,024; the rank f
    seed : 0 or more; the same seed and data give the same model, bit for bit, for one build, on any number of threads
    n_epochs : turns of subspace iteration, 1 or more
    regularization : λ, as a part of the sum of squares in W, above 0
    user_damping : 0 to 1; d_u is the number of a user's interactions to the power of its negative
    interaction_share, weight_exponent : which ratings are interactions, and their weights x_uj (`InteractionRule`)
    """

    family: ClassVar[str] = "linear_items"

    hyper_parameters: ClassVar[type[HyperParameters]] = LinearItemsParameters
    search_space: ClassVar[Space] = {
        "n_factors": [24, 32, 48, 64, 96],
        "regularization": LogUniform(0.003, 1.0),
    }
    n_fit_arrays: ClassVar[int] = 6
    sums_users: ClassVar[bool] = True

    @made_of(LinearItemsParameters)
    def __init__(self, parameters: LinearItemsParameters) -> None:
        self.parameters: dict[str, Any] = msgspec.structs.asdict(parameters)

    def _solve(self, given: Interactions, threads: RowThreads, on_epoch: OnEpoch | None) -> Fit:
        wanted = self.parameters
        f, n_epochs = wanted["n_factors"], wanted["n_epochs"]
        damped = given.times_rows(given.damping(wanted["user_damping"]))
        squares = np.square(damped.weights, dtype=np.float64)
        penalty = wanted["regularization"] * float(squares.sum())
        span = drawn_span(given.n_columns, f, wanted["seed"])
        for epoch in range(n_epochs):
            span = turned(span, damped, threads)
            if on_epoch is not None:
                lost = max(0.0, float(squares.sum()) - float(np.trace(energy_of(span, damped, threads)[1])))
                on_epoch(epoch + 1, n_epochs, float(np.sqrt(lost / squares.size)))
        own = kept_vectors(span, *energy_of(span, damped, threads), penalty, threads)
        users = given.times(own, threads)
        leverages = np.minimum(np.einsum("if,if->i", own, own, dtype=np.float64), MAX_LEVERAGE)
        items = (own / (1.0 - leverages)[:, None]).astype(np.float32)
        precision = gram_matrix(users, threads) + penalty * np.eye(f)
        return Fit(users, items, None, Geometry(precision, np.zeros((f, f))))
