"""The context schema as a vector of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiment import ContextField


class Features:
    def __init__(self, fields: Sequence[ContextField]) -> None:
        self._places: dict[str, int | dict[str, int]] = {}
        at = 1
        for field in fields:
            if field.kind == "numeric":
                self._places[field.name] = at
                at += 1
            else:
                values = field.values or []
                self._places[field.name] = {value: at + i for i, value in enumerate(values)}
                at += len(values)
        self.n_features = at

    def encode(self, context: Mapping[str, float | str | bool | None]) -> NDArray[np.float32]:
        x = np.zeros(self.n_features, np.float32)
        x[0] = 1.0
        for name, place in self._places.items():
            value = context.get(name)
            if isinstance(place, dict):
                if isinstance(value, str) and value in place:
                    x[place[value]] = 1.0
            elif isinstance(value, int | float):
                x[place] = value
        return x
