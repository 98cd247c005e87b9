"""Weighted factorization of interactions, by alternating least squares."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.models._interactions import cholesky, ridge_rows, upper_inverse
from bandit_serve.models.descent import OnEpoch
from bandit_serve.models.hyper_parameters import Epochs, HyperParameters, Penalty, Seed, made_of
from bandit_serve.models.interactions import Interactions, gram_matrix, image
from bandit_serve.models.leading_span import drawn_span, energy_of, kept_vectors, turned
from bandit_serve.models.preference_learner import Geometry
from bandit_serve.models.preferences import Fit, PreferenceFactors, Preferences, Ridge, Share
from bandit_serve.models.ranges import LogUniform, Space
from bandit_serve.models.row_threads import RowThreads

# Of the span that items begin with, as in `LinearItems`.
FIRST_TURNS = 2
FIRST_PENALTY = 0.01


class WeightedParameters(HyperParameters, frozen=True):
    n_factors: PreferenceFactors = 32
    seed: Seed = 0
    n_epochs: Epochs = 3
    regularization: Ridge = 0.08
    confidence: Penalty = 1.0
    user_damping: Share = 0.15
    interaction_share: Share = 0.5
    weight_exponent: Share = 1.0


class WeightedALS(Preferences):
    """p_u·q_i near 1 for interactions, near 0 for all other pairs (Hu, Koren and Volinsky 2008).

    Minimizes Σ_u d_u² (Σ_i (1 + α w_ui) (x_ui − p_u·q_i)² + λ |p_u|²) + λ Σ_i |q_i|² over all users and items, where
    x_ui is 1 for an interaction and 0 for none. Each row is solved exactly, users and items in turns. These begin at
    the leading eigenvectors of the items' co-occurrences. The damping d_u keeps users of many interactions from
    outweighing the others; its square is 1 on average over interactions.

    Parameters
    ----------
    n_factors : 1 to 1,024; the length of p_u and q_i
    seed : 0 or more; the same seed and data give the same model, bit for bit, for one build, on any number of threads
    n_epochs : turns, 1 or more
    regularization : λ, in units of the square root of the number of interactions, above 0
    confidence : α
    user_damping : 0 to 1; d_u is as the number of a user's interactions to the power of its negative
    interaction_share, weight_exponent : which ratings are interactions, and their weights (`InteractionRule`)
    """

    family: ClassVar[str] = "weighted_als"

    hyper_parameters: ClassVar[type[HyperParameters]] = WeightedParameters
    search_space: ClassVar[Space] = {
        "n_factors": [16, 24, 32, 48],
        "regularization": LogUniform(0.05, 0.12),
        "confidence": LogUniform(0.3, 3.0),
    }
    n_fit_arrays: ClassVar[int] = 4
    sums_users: ClassVar[bool] = False

    @made_of(WeightedParameters)
    def __init__(self, parameters: WeightedParameters) -> None:
        self.parameters: dict[str, Any] = msgspec.structs.asdict(parameters)

    def _solve(self, given: Interactions, threads: RowThreads, on_epoch: OnEpoch | None) -> Fit:
        wanted = self.parameters
        f, n_epochs = wanted["n_factors"], wanted["n_epochs"]
        penalty = wanted["regularization"] * float(np.sqrt(given.columns.size))
        damping = given.damping(wanted["user_damping"])
        damping /= np.sqrt(np.square(damping)[given.rows].mean())
        targets = damping.astype(np.float32)
        ones = np.ones(given.n_columns, np.float32)
        users = np.zeros((given.n_rows, f), np.float32)
        items = self._begun(given, threads)
        for epoch in range(n_epochs):
            users = self._half(given, items, ones, penalty, threads)
            items = self._half(given.transposed, users * targets[:, None], targets, penalty, threads)
            if on_epoch is not None:
                on_epoch(epoch + 1, n_epochs, _rmse(given, users, items))
        damped = users * targets[:, None]
        return Fit(
            users,
            items,
            self._geometry(given.transposed, items, penalty, threads),
            self._geometry(given, damped, penalty, threads),
        )

    def _begun(self, given: Interactions, threads: RowThreads) -> NDArray[np.float32]:
        """Items to begin with: leading eigenvectors, from which few turns are needed."""
        span = drawn_span(given.n_columns, self.parameters["n_factors"], self.parameters["seed"])
        for _ in range(FIRST_TURNS):
            span = turned(span, given, threads)
        energy = float(np.square(given.weights, dtype=np.float64).sum())
        return kept_vectors(span, *energy_of(span, given, threads), FIRST_PENALTY * energy, threads)

    def _half(
        self,
        given: Interactions,
        others: NDArray[np.float32],
        targets: NDArray[np.float32],
        penalty: float,
        threads: RowThreads,
    ) -> NDArray[np.float32]:
        """Rows that minimize the loss while the others stay, whose targets, float32 (n_others,), are as given."""
        f = others.shape[1]
        base = gram_matrix(others, threads) + penalty * np.eye(f)
        inverse = upper_inverse(cholesky(base))
        confidence = self.parameters["confidence"]
        plain = image(others, inverse, threads)
        rows = np.empty((given.n_rows, f), np.float32)
        threads.each(
            given.n_rows,
            given.columns.size * f * f / 2,
            lambda begin, end: ridge_rows(
                given.starts, given.columns, given.weights, plain, targets, confidence, rows, begin, end
            ),
        )
        return image(rows, inverse.T, threads)

    def _geometry(
        self, of_others: Interactions, others: NDArray[np.float32], penalty: float, threads: RowThreads
    ) -> Geometry:
        """Geometry of rows against `others`: of their Gram matrix, and what one more interaction adds on average."""
        precision = gram_matrix(others, threads) + penalty * np.eye(others.shape[1])
        weights = np.bincount(of_others.rows, of_others.weights, of_others.n_rows).astype(np.float32)
        spread = gram_matrix(others, threads, weights) * (
            self.parameters["confidence"] / of_others.columns.size
        )
        return Geometry(precision, spread)


def _rmse(given: Interactions, users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
    squares = 0.0
    for begin in range(0, given.columns.size, 1 << 16):
        part = slice(begin, begin + (1 << 16))
        scores = np.einsum("nf,nf->n", users[given.rows[part]], items[given.columns[part]])
        squares += float(np.square(1.0 - scores, dtype=np.float64).sum())
    return float(np.sqrt(squares / given.columns.size))
