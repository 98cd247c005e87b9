"""Layer: experiments of which a unit is in at most one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from bandit_serve.base.names import Name

N_SLOTS = 10_000
"""Parts of equal size that a layer's units fall into, by their hashes."""


LayerShare = Annotated[float, Meta(ge=1.0 / N_SLOTS, le=1.0)]


class Layer(Struct, frozen=True, forbid_unknown_fields=True):
    """Layer of an experiment, and the share of units that may be in it: a multiple of 1/`N_SLOTS`, rounded."""

    name: Name
    share: LayerShare

    @property
    def n_slots(self) -> int:
        """Number of the layer's slots that the experiment asks for, 1 to `N_SLOTS`."""
        return max(1, round(self.share * N_SLOTS))
