"""Base of the families that learn from interactions, and whose scores are preferences: p_u·q_i."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import Diverged, InvalidArtifact, InvalidInput, TooLarge
from bandit_serve.models._interactions import cholesky
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.columns import rating_column
from bandit_serve.models.descent import OnEpoch
from bandit_serve.models.factorized import Factorized
from bandit_serve.models.ids import index_ids
from bandit_serve.models.interactions import InteractionRule, Interactions
from bandit_serve.models.model import Features, FeaturesById, Validation
from bandit_serve.models.preference_learner import (
    MAX_PARAMETER,
    Geometry,
    PreferenceLearner,
    PreferenceState,
)
from bandit_serve.models.row_threads import RowThreads, row_threads

MAX_FIT_BYTES = 4 * 2**30
"""Memory of a fit at its peak, about. A model that fits in it fits in a file."""
ENTRY_BYTES = 100
"""Memory that a rating takes while interactions are made of it."""
# Of both families. A model keeps matrices of this order, and learns on in time of its third power.
PreferenceFactors = Annotated[int, Meta(ge=1, le=1024)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
# 0 would leave the preferences of whoever has few interactions open.
Ridge = Annotated[float, Meta(ge=1e-6, le=1e3)]


class Fit(NamedTuple):
    """Fit of a family: float32 (n_users, f) and (n_items, f), and the geometries of both sides' rows."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    user_geometry: Geometry | None
    item_geometry: Geometry


class Preferences(Factorized):
    """A base class: a family says how factors come of interactions.

    Which ratings are interactions, and how much they weigh, is what `InteractionRule` makes of the hyper-parameters
    `interaction_share` and `weight_exponent`. Users' factors are kept relative to their mean, and an item's bias is its
    product with that, so that a user never seen is served what the model expects of anyone.
    """

    scores_are_ratings: ClassVar[bool] = False
    trained_by_default: ClassVar[bool] = True
    # Arrays of the size of all factors, float32, that a fit has at a time, rounded up.
    n_fit_arrays: ClassVar[int]
    # Whether a user's vector is the sum of those of the items.
    sums_users: ClassVar[bool]
    _state: PreferenceState | None = None
    # Items that learning on may move, of those in the file; where users are sums.
    _open: NDArray[np.uint8] = np.zeros(0, np.uint8)

    @abstractmethod
    def _solve(self, given: Interactions, threads: RowThreads, on_epoch: OnEpoch | None) -> Fit:
        """Factors of users and items; `given` has a row for each user, and one entry or more."""

    def fit(
        self,
        users: ArrayLike,
        items: ArrayLike,
        ratings: ArrayLike,
        *,
        user_features: FeaturesById | None = None,
        item_features: FeaturesById | None = None,
        features: Sequence[Features] | None = None,
        validation: Validation | None = None,
        patience: int | None = None,
        on_epoch: OnEpoch | None = None,
        n_threads: int | None = None,
    ) -> Self:
        """Learns from the interactions among n ratings; returns the model. A model is fitted once.

        users, items : n ids each, str or int (12 and "12" are one id); weights of the same pair are added
        ratings : n finite numbers
        user_features, item_features, features : refused, this family takes none
        validation, patience : not looked at, the epochs converge
        on_epoch : called as `on_epoch(done, epochs, rmse)` after each epoch, with the root of the mean squared
            difference between 1 and the preferences of all interactions
        n_threads : one a processor by default; the model does not depend on it

        Raises `InvalidInput` when the columns disagree or are empty, or an id or a rating is not valid, `TooLarge` for
        a fit that takes more than 4 GiB of memory, before any work, and `Diverged` where parameters are not finite.
        """
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        if user_features is not None or item_features is not None or features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        values = rating_column(ratings)
        user_ids, user_rows = index_ids(users, "users")
        item_ids, item_rows = index_ids(items, "items")
        if not user_rows.size == item_rows.size == values.size:
            raise InvalidInput("There must be as many users as items as ratings.")
        self._check_size(len(user_ids), len(item_ids), values.size)
        wanted = self.parameters
        rule = InteractionRule.of(values, wanted["interaction_share"], wanted["weight_exponent"])
        shape = len(user_ids), len(item_ids)
        given = Interactions.of(user_rows, item_rows, rule.weights(values), shape)
        with np.errstate(over="ignore", invalid="ignore"), row_threads(n_threads) as threads:
            fit = self._solve(given, threads, on_epoch)
        for factors in (fit.users, fit.items):
            if not np.abs(factors).max() <= MAX_PARAMETER:  # NaN is not
                raise Diverged("The preferences are not finite; a higher regularization would help.")
        active = given.sizes > 0
        mean_user = fit.users[active].mean(axis=0, dtype=np.float64).astype(np.float32)
        parts = (
            np.where(active[:, None], fit.users - mean_user, np.float32(0.0)),
            fit.items,
            np.zeros(len(user_ids), np.float32),
            np.einsum("if,f->i", fit.items, mean_user, dtype=np.float64).astype(np.float32),
        )
        counts = (
            np.bincount(user_rows, minlength=len(user_ids)).astype(np.int32),
            np.bincount(item_rows, minlength=len(item_ids)).astype(np.int32),
        )
        for array in (*parts, *counts):
            array.flags.writeable = False
        self._state = PreferenceState(fit.user_geometry, fit.item_geometry, mean_user, rule)
        self._open = np.zeros(len(item_ids), np.uint8)
        self._set(0.0, *parts, user_ids, item_ids, *counts)
        return self

    def target(self, rating: float) -> float:
        """1 for an interaction, 0 for another rating."""
        return float(self._known().rule.weight(rating) > 0.0)

    def _check_size(self, n_users: int, n_items: int, n_ratings: int) -> None:
        f = self.parameters["n_factors"]
        n_bytes = self.n_fit_arrays * 4 * f * (n_users + n_items) + 80 * f * f + ENTRY_BYTES * n_ratings
        if n_bytes > MAX_FIT_BYTES:
            raise TooLarge(
                f"A model of {n_users:,} users and {n_items:,} items with {f} factors, of {n_ratings:,} ratings, would "
                f"take {n_bytes:,} bytes of memory to fit; at most {MAX_FIT_BYTES:,} are taken."
            )

    def _new_learner(self) -> PreferenceLearner:
        wanted = self.parameters
        return PreferenceLearner(self._known(), wanted["seed"], wanted.get("confidence", 0.0))

    def _thawed(self) -> PreferenceLearner:
        learner = super()._thawed()
        assert isinstance(learner, PreferenceLearner)
        learner.open = set(np.flatnonzero(self._open).tolist())
        return learner

    def _known(self) -> PreferenceState:
        """State of the fit, or that of a model which learns from nothing."""
        if self._state is None:
            f = self.parameters["n_factors"]
            unknown = Geometry.unknown(f)
            rule = InteractionRule(exponent=self.parameters["weight_exponent"])
            users = None if self.sums_users else unknown
            self._state = PreferenceState(users, unknown, np.zeros(f, np.float32), rule)
        return self._state

    def _tensors(self) -> dict[str, NDArray[Any]]:
        state = self._known()
        tensors = super()._tensors() | {
            "mean_user": state.mean_user,
            "interaction_from": np.array([state.rule.least]),
            "item_precision": state.items.precision,
            "item_spread": state.items.spread,
        }
        if state.users is None:
            tensors["item_is_open"] = self._opened()
        else:
            tensors |= {"user_precision": state.users.precision, "user_spread": state.users.spread}
        return tensors

    def _opened(self) -> NDArray[np.uint8]:
        """(n_items,): 1 for items that learning on may move."""
        learner = self._learner
        if not isinstance(learner, PreferenceLearner):
            return self._open
        rows = np.zeros(learner.items.size, np.uint8)
        rows[list(learner.open)] = 1
        return rows[learner.items.ids.table()[1]]

    def _take(self, artifact: Artifact) -> None:
        f = self.parameters["n_factors"]
        mean_user = artifact.tensor("mean_user", "F32", [f])
        least = float(artifact.tensor("interaction_from", "F64", [1])[0])
        if not (np.isfinite(mean_user).all() and np.isfinite(least)):
            raise InvalidArtifact("The artifact cannot be served: a mean or a limit is not finite.")
        rule = InteractionRule(least, self.parameters["weight_exponent"])
        users = None if self.sums_users else _read_geometry(artifact, "user", f)
        if self.sums_users:
            self._open = artifact.tensor("item_is_open", "U8", [self.n_items])
        self._state = PreferenceState(users, _read_geometry(artifact, "item", f), mean_user, rule)


def _read_geometry(artifact: Artifact, side: str, n_factors: int) -> Geometry:
    shape = [n_factors, n_factors]
    geometry = Geometry(
        artifact.tensor(f"{side}_precision", "F64", shape), artifact.tensor(f"{side}_spread", "F64", shape)
    )
    if not all((np.abs(matrix) <= MAX_PARAMETER**2).all() for matrix in geometry):
        raise InvalidArtifact(f"The artifact cannot be served: the {side}s' geometry is not finite.")
    if not np.diagonal(cholesky(geometry.precision)).all():
        raise InvalidArtifact(f"The artifact cannot be served: the {side}s' precision is not positive.")
    return geometry
