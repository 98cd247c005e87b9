"""Notes: what goes with a decision, or with a unit, into its analysis beside its arm, its shares and its value.

A note is float32 (w,): the covariates, by the place of their names in `Experiment.covariates`, then of each dimension 1
plus the number of the decision's segment. Whatever follows the sums (`follower.pyx`) takes its columns from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.dimensions import Dimension
from bandit_serve.experiments.logged import n_context_features, n_logged
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results.columns import Features
from bandit_serve.results.uploads import Uploads


class Notes:
    """Makes the notes of an experiment's decisions. `width` is w; 0: there are none.

    `uploads` are the covariates that were uploaded, while it was a draft.
    """

    def __init__(self, experiment: Experiment, dimensions: Sequence[Dimension] = ()) -> None:
        self._n_context = n_context_features(experiment)
        self.n_covariates = len(experiment.covariates)
        self.n_logged = n_logged(experiment)
        self._dimensions = tuple(dimensions)
        self.width = self.n_covariates + len(self._dimensions)
        self.uploads = Uploads(experiment.covariates)

    def of(self, x: Features | None, units: NDArray[np.uint64], n: int) -> Features | None:
        """Notes of n decisions, float32 (n, w), from what the log has of them, x float32 (n, d); None for w = 0.

        `units` (n,), or (0,) where there are none: a covariate that was uploaded of one counts, and else that of the
        decision. Where x is None and nothing uploaded all is 0.
        """
        if self.width == 0:
            return None
        notes = np.zeros((n, self.width), np.float32)
        if x is not None:
            notes[:, : self.n_covariates] = x[:, self._n_context :]
            for d, dimension in enumerate(self._dimensions, self.n_covariates):
                notes[:, d] = 1 + dimension.codes(x)
        if len(units):
            self.uploads.put_into(notes, units)
        return notes
