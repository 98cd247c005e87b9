"""What a build makes of the logs in a store."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.offset import START
from bandit_serve.log.repairs import Repairs
from bandit_serve.policies.serving import features_of
from bandit_serve.registry.registry import Registry, decode_registry_event
from bandit_serve.replication.replay import replay
from bandit_serve.replication.tail import READ_COUNT, Tail
from bandit_serve.results import ResultsFold, report
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

AS_OF_MS = 1_800_000_000_000


async def fold_all(url: str) -> dict[str, Any]:
    """By the owner of each log: the digest of its policy fold, and its results at `AS_OF_MS`.

    Every snapshot that is kept is what its log gives.
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
            results = await fold_results(store, owner, registry.repairs)
            about = report(results, results.record, {}, AS_OF_MS)
            folded[owner] = {
                "digest": replayed.digest,
                "snapshots": len(replayed.snapshots),
                "results": sha256(msgspec.json.encode(about)).hexdigest(),
                "sentence": about.reason,
            }
        return folded
    finally:
        await store.close()


async def snapshot_of_the_registry(store: Store) -> bytes | None:
    """Read back with what came after it."""
    snapshot = await store.read_snapshot(COMMON, "registry")
    if snapshot is None:
        return None
    registry = Registry.from_state(snapshot.offset, snapshot.state)
    for entry in await store.read(COMMON, snapshot.offset, READ_COUNT):
        registry.apply(entry.offset, decode_registry_event(entry.kind, entry.data))
    return registry.state()


async def fold_results(store: Store, owner: str, repairs: Repairs) -> ResultsFold:
    """The results of a whole log, which its snapshots equal where they were taken."""
    snapshots = {}
    for offset in await store.snapshot_offsets(owner, "results"):
        snapshot = await store.read_snapshot(owner, "results", offset)
        assert snapshot is not None
        snapshots[offset] = ResultsFold.from_state(snapshot.state).state()
    position, fold, n_features = START, None, 0
    while entries := await store.read(owner, position, READ_COUNT):
        for entry in entries:
            position = entry.offset
            if repairs.omission(owner, position) is not None:
                assert fold is not None
                fold.omitted = repairs.omitted_before(owner, position)
                continue
            event = events.decode(entry.kind, entry.data, n_features)
            if fold is None:
                assert isinstance(event, events.Changed)
                fold = ResultsFold(event.record)
            fold.apply(position.time_ms, event)
            features = features_of(fold.record.experiment)
            n_features = 0 if features is None else features.n_features
            state = snapshots.pop(position, None)
            assert state is None or state == fold.state(), f"the results of {owner} at {position}"
    assert not snapshots, f"of {owner}: {list(snapshots)}"
    assert fold is not None
    return fold
