"""Layers of the registry: which experiment has which slots. No slot of a layer is of two experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.errors import Conflict, UnreadableEntry
from bandit_serve.experiments.layer import N_SLOTS, Layer
from bandit_serve.log.owner import name_of

Spans = tuple[tuple[int, int], ...]
"""Slots as ascending spans, each from its first slot to before its second number."""


class Holding(Struct, frozen=True, forbid_unknown_fields=True):
    """Slots of an experiment in a layer, since the Unix time `at_ms`. `owner` is that of its log."""

    owner: str
    spans: Spans
    at_ms: int

    @property
    def n_slots(self) -> int:
        return sum(end - start for start, end in self.spans)


class LayerChanged(Struct, frozen=True, forbid_unknown_fields=True):
    """Slots that the experiment with this `uid` has in a layer from now on; without any, it is not in the layer."""

    layer: str
    owner: str
    uid: int
    spans: Spans
    who: str


Layers = dict[str, dict[int, Holding]]
"""Holdings by layer and by the experiment's uid."""


def applied(layers: Mapping[str, Mapping[int, Holding]], event: LayerChanged, at_ms: int) -> Layers:
    """Layers after an event. Raises `UnreadableEntry` for slots that are none, or that another experiment has."""
    others = {uid: each for uid, each in layers.get(event.layer, {}).items() if uid != event.uid}
    if event.spans:
        others[event.uid] = Holding(event.owner, event.spans, at_ms)
    try:
        _require_disjoint(others)
    except ValueError as error:
        raise UnreadableEntry(f"The log holds a change of a layer that does not fit it: {error}.") from error
    return _with(layers, event.layer, others)


def without_owner(layers: Layers, owner: str) -> Layers:
    """Layers without what the experiment of this owner has."""
    for name, holdings in list(layers.items()):
        left = {uid: each for uid, each in holdings.items() if each.owner != owner}
        if len(left) < len(holdings):
            layers = _with(layers, name, left)
    return layers


def _with(layers: Mapping[str, Mapping[int, Holding]], name: str, holdings: Mapping[int, Holding]) -> Layers:
    rest = {layer: dict(each) for layer, each in layers.items() if layer != name}
    return {**rest, name: dict(holdings)} if holdings else rest


def require_sound(layers: Layers) -> None:
    """Raises `ValueError` for layers that no events lead to."""
    for holdings in layers.values():
        _require_disjoint(holdings)


def _require_disjoint(holdings: Mapping[int, Holding]) -> None:
    taken = np.zeros(N_SLOTS, np.bool_)
    for each in holdings.values():
        last = -1
        for start, end in each.spans:
            if not last < start < end <= N_SLOTS or taken[start:end].any():
                raise ValueError("a slot of a layer is none, or of two experiments")
            taken[start:end] = True
            last = end


def mask_of(spans: Spans) -> NDArray[np.uint8]:
    """Mask, uint8 (N_SLOTS,), that is 1 at the slots."""
    mask = np.zeros(N_SLOTS, np.uint8)
    for start, end in spans:
        mask[start:end] = 1
    return mask


def allotment(layers: Layers, layer: Layer, owner: str, uid: int, who: str) -> LayerChanged | None:
    """Event that gives an experiment the share of a layer that it asks for; None if it has that already.

    It keeps what it has, takes the first slots that are free, and gives back its last ones, so nobody else is moved.
    Raises `Conflict`, which says who has what, where too few are free.
    """
    holdings = layers.get(layer.name, {})
    own = holdings.get(uid)
    mine = mask_of(() if own is None else own.spans).astype(np.bool_)
    wanted = layer.n_slots - int(np.count_nonzero(mine))
    if wanted == 0:
        return None
    if wanted < 0:
        mine[np.flatnonzero(mine)[wanted:]] = False
    else:
        taken = mask_of(tuple(span for each in holdings.values() for span in each.spans)).astype(np.bool_)
        free = np.flatnonzero(~taken)
        if len(free) < wanted:
            raise Conflict(_refusal(layer, holdings, uid, len(free)))
        mine[free[:wanted]] = True
    return LayerChanged(layer.name, owner, uid, _spans(mine), who)


def release(layers: Layers, layer: str, uid: int, who: str) -> LayerChanged | None:
    """Event that takes an experiment out of a layer; None if it is not in it."""
    own = layers.get(layer, {}).get(uid)
    return None if own is None else LayerChanged(layer, own.owner, uid, (), who)


def holdings_of(layers: Layers, uid: int) -> Iterator[tuple[str, Holding]]:
    """Layers that an experiment has slots in, and which."""
    for name, holdings in layers.items():
        if uid in holdings:
            yield name, holdings[uid]


def _refusal(layer: Layer, holdings: Mapping[int, Holding], uid: int, n_free: int) -> str:
    others = ", ".join(
        f"{name_of(each.owner)!r} has {_percent(each.n_slots)}"
        for other, each in holdings.items()
        if other != uid
    )
    own = holdings[uid].n_slots if uid in holdings else 0
    return (
        f"The layer {layer.name!r} has {_percent(n_free + own)} of its units left, "
        f"and {_percent(layer.n_slots)} are asked for: {others}."
    )


def _percent(n_slots: int) -> str:
    return f"{100.0 * n_slots / N_SLOTS:g} %"


def _spans(mask: NDArray[np.bool_]) -> Spans:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
