"""Slots of layers for experiments.

An experiment's layer stands in its own log, its slots in the registry's, and no transaction spans the two. So slots are
taken before the experiment says that it has them, and given back after it says that it has them no more. `settle`,
which the lease holder calls, puts right what an interrupted change has left.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from msgspec import UNSET

from bandit_serve.changes.changes import Changes
from bandit_serve.errors import BanditServeError, Conflict, StoreUnavailable, in_full
from bandit_serve.experiments.layer import Layer
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.replica import Replica
from bandit_serve.log.owner import name_of
from bandit_serve.registry.layers import allotment, release

UNSETTLED_MS = 60_000
"""For so long a change of an experiment's layer may be under way."""
UPKEEP = "upkeep"
"""Who puts right what was interrupted."""


def layer_of(record: Record) -> Layer | None:
    """Layer that an experiment is to have slots in; a stopped one needs none."""
    layer = record.experiment.layer
    return None if layer is UNSET or record.status == "stopped" else layer


async def take(changes: Changes, layer: Layer | None, owner: str, uid: int, who: str) -> None:
    """Gives an experiment the share of a layer that it asks for; nothing for None.

    Raises `Conflict`, and has changed nothing, where others have too much of the layer.
    """
    if layer is not None:
        await changes.change_layer(lambda registry: allotment(registry.layers, layer, owner, uid, who))


def taken_first(before: Layer | None, after: Layer | None) -> Layer | None:
    """What an experiment is given before its layer is another one: all of `after`, and no less than it has."""
    if before is None or after is None or before.name != after.name:
        return after
    return max(before, after, key=lambda layer: layer.n_slots)


async def leave_others(changes: Changes, replica: Replica, layer: Layer | None, uid: int, who: str) -> None:
    """Takes an experiment out of all layers but this one."""
    for name, holdings in list(replica.registry.layers.items()):
        if uid in holdings and (layer is None or name != layer.name):
            await _release(changes, name, uid, who)


async def keep_only(
    changes: Changes, replica: Replica, layer: Layer | None, owner: str, uid: int, who: str
) -> None:
    """Leaves an experiment its share of this layer, and nothing else. Raises `Conflict` where that is not free."""
    await leave_others(changes, replica, layer, uid, who)
    await take(changes, layer, owner, uid, who)


@contextlib.asynccontextmanager
async def or_as_before(
    changes: Changes, replica: Replica, owner: str, uid: int, who: str
) -> AsyncIterator[None]:
    """Context of a change for which slots were taken: where it is refused, the experiment has what it had before.

    While the store is away nobody knows what became of it; `settle` will.
    """
    try:
        yield
    except StoreUnavailable:
        raise
    except BanditServeError as error:
        live = replica.experiments.get(name_of(owner))
        layer = None if live is None or live.record.uid != uid else layer_of(live.record)
        try:
            await keep_only(changes, replica, layer, owner, uid, who)
        except BanditServeError as second:
            error.add_note(f"Its slots are not as before yet: {in_full(second)}")
        raise


async def _release(changes: Changes, layer: str, uid: int, who: str) -> None:
    await changes.change_layer(lambda registry: release(registry.layers, layer, uid, who))


def unsettled(replica: Replica, now_ms: int) -> Iterator[tuple[str, int, Layer | None]]:
    """Yields the owner and uid of experiments whose slots are not what their records say, and what these say."""
    before_ms, layers = now_ms - UNSETTLED_MS, replica.registry.layers
    records = {record.uid: record for record in replica.records().values()}
    for name, holdings in layers.items():
        for uid, holding in holdings.items():
            layer = None if uid not in records else layer_of(records[uid])
            is_right = layer is not None and (layer.name, layer.n_slots) == (name, holding.n_slots)
            aside = replica.aside.get(name_of(holding.owner))
            is_unknown = aside is not None and (aside.record is None or aside.reading)
            if not is_right and not is_unknown and holding.at_ms < before_ms:
                yield holding.owner, uid, layer
    for name, live in replica.experiments.items():
        layer, uid = layer_of(live.record), live.record.uid
        has_none = layer is not None and uid not in layers.get(layer.name, {})
        if has_none and live.record.updated_ms < before_ms and name not in replica.aside:
            yield live.owner, uid, layer


async def settle(changes: Changes, replica: Replica, now_ms: int) -> None:
    """Puts right what `unsettled` finds. A share that is not free any more stays as small as it is."""
    for owner, uid, _ in list(unsettled(replica, now_ms)):
        await changes.catch_up(owner)
        for other, same, layer in list(unsettled(replica, now_ms)):
            if (other, same) == (owner, uid):
                with contextlib.suppress(Conflict):
                    await keep_only(changes, replica, layer, owner, uid, UPKEEP)
                break
