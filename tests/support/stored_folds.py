"""Folds of all logs in a store, as this build computes them."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log import events
from bandit_serve.log.fold import EXPOSURES_FOLD, RESULTS_FOLD
from bandit_serve.log.offset import START
from bandit_serve.log.reader import event_of, pages
from bandit_serve.log.repairs import Repairs
from bandit_serve.registry.registry import Registry, decode_registry_event
from bandit_serve.replication.replay import replay
from bandit_serve.replication.tail import READ_COUNT, Tail
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.state import CODEC
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

StoredFold = TypeVar("StoredFold", ResultsFold, UnitExposures)

AS_OF_MS = 1_800_000_000_000


async def fold_all(url: str) -> dict[str, Any]:
    """Folds all logs; returns, by owner, digests of the folds, and the results at `AS_OF_MS`.

    Asserts that every snapshot equals the fold of its log.
    """
    store = Store(url)
    try:
        replica = Replica()
        await Tail(store, replica).load_registry()
        registry = replica.registry
        folded: dict[str, Any] = {COMMON: {"digest": sha256(registry.state()).hexdigest()}}
        assert await snapshot_of_the_registry(store) in (None, registry.state())
        for owner in sorted(registry.experiments):
            replayed = await replay(store, owner, registry.repairs)
            assert replayed.equal is not False, replayed
            results = await fold_snapshots(store, owner, registry.repairs, RESULTS_FOLD, ResultsFold)
            about = report(results, results.record, {}, AS_OF_MS)
            folded[owner] = {
                "digest": replayed.digest,
                "snapshots": len(replayed.snapshots),
                "results": msgspec.to_builtins(about),
            }
            if results.record.experiment.unit == "user":
                units = await fold_snapshots(store, owner, registry.repairs, EXPOSURES_FOLD, UnitExposures)
                folded[owner]["units"] = sha256(units.state()).hexdigest()
        return folded
    finally:
        await store.close()


def agrees(now: Any, then: Any) -> bool:
    """Whether what is there now has all that was there then, numbers within what kinds of CPU differ by."""
    match then:
        case dict():
            return isinstance(now, dict) and all(agrees(now.get(name), each) for name, each in then.items())
        case list() | tuple():
            return len(now) == len(then) and all(map(agrees, now, then))
        case float():
            return isinstance(now, float) and math.isclose(now, then, rel_tol=1e-9, abs_tol=1e-12)
    return bool(now == then)


async def snapshot_of_the_registry(store: Store) -> bytes | None:
    """State of the registry from its snapshot and the entries after it; None without a snapshot."""
    snapshot = await store.read_snapshot(COMMON, "registry")
    if snapshot is None:
        return None
    registry = Registry.from_state(snapshot.offset, snapshot.state)
    for entry in await store.read(COMMON, snapshot.offset, READ_COUNT):
        registry.apply(entry.offset, decode_registry_event(entry.kind, entry.data))
    return registry.state()


def with_parts_of(former: bytes, state: bytes, kind: str) -> bytes:
    """State with those parts only that the `former` one has, too: builds of before kept fewer."""
    if kind != RESULTS_FOLD:
        return state
    now, then = CODEC.unpack(state), CODEC.unpack(former)
    kept = {part: columns for part, columns in now.columns.items() if part in then.columns}
    return CODEC.pack(msgspec.structs.replace(now, columns=kept))


async def fold_snapshots(
    store: Store, owner: str, repairs: Repairs, kind: str, make: type[StoredFold]
) -> StoredFold:
    """Folds a whole log; asserts that the snapshots of this kind equal the fold at their offsets."""
    snapshots = {}
    for offset in await store.snapshot_offsets(owner, kind):
        snapshot = await store.read_snapshot(owner, kind, offset)
        assert snapshot is not None
        snapshots[offset] = make.from_state(offset, snapshot.state).state()
    fold = None
    async for page in pages(store, owner, START):
        for entry in page.entries:
            if fold is None:
                created = events.decode(entry.kind, entry.data)
                assert isinstance(created, events.Changed)
                fold = make(created.record)
            fold.apply(entry.offset, event_of(entry, owner, repairs, fold.n_features))
            state = snapshots.pop(entry.offset, None)
            same = state is None or state == with_parts_of(state, fold.state(), kind)
            assert same, f"the {kind} of {owner} at {entry.offset}"
    assert not snapshots, f"of {owner}: {list(snapshots)}"
    assert fold is not None
    return fold
