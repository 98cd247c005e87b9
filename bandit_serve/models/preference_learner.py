"""Learner of interactions one at a time, for families whose scores are preferences."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.models._ids import id_text
from bandit_serve.models._interactions import dot_product, gain
from bandit_serve.models._learner import MAX_RATING, Rows
from bandit_serve.models.columns import TOO_LARGE
from bandit_serve.models.interactions import InteractionRule
from bandit_serve.models.model import Id

# Length of the vectors of items that are drawn where nothing was fitted: without them nothing would grow.
DRAWN_LENGTH = 0.3
MAX_PARAMETER = 1e15


class Geometry(NamedTuple):
    """Curvature of the loss of a row that has n interactions, as the fit left it: `precision` + n · `spread`.

    Both float64 (f, f), symmetric; the precision is positive definite.
    """

    precision: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def unknown(cls, n_factors: int) -> Geometry:
        """Geometry of a model that was not fitted."""
        return cls(np.eye(n_factors), np.zeros((n_factors, n_factors)))


class PreferenceState(NamedTuple):
    """State of a fit besides factors and ids.

    users, items : their geometries; users None where a user's vector is the sum of those of the items
    mean_user : float32 (f,), the mean vector of all users, which users' factors are kept relative to
    rule : which ratings are interactions
    """

    users: Geometry | None
    items: Geometry
    mean_user: NDArray[np.float32]
    rule: InteractionRule

    @property
    def nbytes(self) -> int:
        parts = [*self.items, *(self.users or ())]
        return sum(int(part.nbytes) for part in (*parts, self.mean_user))


class PreferenceLearner:
    """Folds interactions in: the user's vector first, then the item's.

    A row takes one step of recursive least squares towards the preference 1, in the geometry of the fit. Where users
    are sums, a user's vector grows by the item's in place of that, and the items of the fit stay, as all sums are of
    them: only those that it knew no interaction of are `open`. Nothing else moves. A user without interactions has the
    mean of all users, so that the ranking is by what the model expects of anyone.
    """

    def __init__(self, state: PreferenceState, seed: int, confidence: float) -> None:
        factors = state.mean_user.size
        self.state = state
        self._confidence = confidence
        drawn = 0.0 if state.mean_user.any() else DRAWN_LENGTH / math.sqrt(factors)
        self.users = Rows(factors, seed, 0.0)
        self.items = Rows(factors, seed + 1, drawn)
        self.open: set[int] = set()
        self.mean = 0.0
        self.n_ratings = 0

    @property
    def nbytes(self) -> int:
        return self.users.nbytes + self.items.nbytes + self.state.nbytes

    def predict(self, user_id: Id, item_id: Id) -> float:
        """Preference, of the same bits as it is served with."""
        user, item = self.users.ids.row(user_id), self.items.ids.row(item_id)
        if item < 0:
            return 0.0
        bias = float(self.items.weights[item])
        return bias if user < 0 else bias + dot_product(self.users.vectors[user], self.items.vectors[item])

    def learn(self, user_id: Id, item_id: Id, rating: float) -> None:
        """Learns from one rating of a user and an item, which may be new; nothing is learned where it is refused."""
        value = float(rating)
        if not abs(value) <= MAX_RATING:
            raise InvalidInput(TOO_LARGE)
        id_text(user_id), id_text(item_id)
        n_items = self.items.size
        user, item = self.users.add(user_id), self.items.add(item_id)
        if item == n_items or not self.items.vectors[item].any():
            self.open.add(item)
        weight = self.state.rule.weight(value)
        if weight > 0.0:
            self._interact(user, item, weight)
        for rows, row in ((self.users, user), (self.items, item)):
            rows.counts[row] = min(int(rows.counts[row]) + 1, 2**31 - 1)
        self.n_ratings += 1

    def _interact(self, user: int, item: int, weight: float) -> None:
        p, q, mean = self.users.vectors[user], self.items.vectors[item], self.state.mean_user
        confidence = 1.0 + self._confidence * weight
        if self.state.users is None:
            added = weight * own_vector(q)
            _keep(p, added if p.any() else added - mean)
        else:
            _step(p, mean, q, self.state.users, int(self.users.counts[user]), confidence)
        if self.state.users is not None or item in self.open:
            others = int(self.items.counts[item])
            _step(q, np.zeros_like(q), p + mean, self.state.items, others, confidence)
            self.items.weights[item] = dot_product(q, mean)

    def sides(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Biases, float32 (n,), and vectors, float32 (n, f), of the users or the items, in the order of rows."""
        rows = self.users if name == "users" else self.items
        return rows.trimmed("weights").copy(), rows.trimmed("vectors").copy()


def own_vector(served: NDArray[np.float32]) -> NDArray[np.float64]:
    """Vector v of an item that is served as v / (1 − |v|²)."""
    q = served.astype(np.float64)
    squares = 4.0 * float(np.einsum("i,i", q, q))
    # |v|² = a² of the length a = 2|q| / (1 + √(1 + 4|q|²)), so that 1 − a² = 2 / (1 + √(1 + 4|q|²)).
    return q * (2.0 / (1.0 + math.sqrt(1.0 + squares)))


def _step(
    row: NDArray[np.float32],
    origin: NDArray[np.float32],
    other: NDArray[np.float32],
    geometry: Geometry,
    n: int,
    confidence: float,
) -> None:
    """Moves a row, kept relative to `origin`, towards a preference of 1 for the other side."""
    error = 1.0 - dot_product(row + origin, other)
    _keep(row, error * gain(*geometry, n, other, confidence))


def _keep(row: NDArray[np.float32], added: NDArray[np.float64]) -> None:
    """Adds to a row, unless that would leave what scores may be made of."""
    moved = row + added
    if np.isfinite(moved).all() and np.abs(moved).max(initial=0.0) <= MAX_PARAMETER:
        row[:] = moved
