"""Covariates: numbers that are known of a decision, or of its unit, before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.errors import FieldError, InvalidInput

MAX_COVARIATE = 1e12
"""Largest size of a covariate. They are rounded to float32."""
MAX_UPLOADED_UNITS = 2**20
"""Units of which covariates can be uploaded: results keep them, in 8 bytes and 4 a covariate."""


def with_covariates(
    x: NDArray[np.float32] | None, names: Sequence[str], given: Mapping[str, float | None]
) -> NDArray[np.float32] | None:
    """Features x, float32 (d,) or None, and behind them the covariates by `names`, 0 where none is given.

    `InvalidInput` for one that is not named.
    """
    for name in given:
        if name not in names:
            detail = f"{expected_one_of(name, names)}, not {name!r}" if names else "no metric has a covariate"
            at = f"covariates.{name[:60]}" if names else "covariates"
            raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
    values = np.array([given.get(name) or 0.0 for name in names], np.float32)
    return values if x is None else np.concatenate([x, values])
