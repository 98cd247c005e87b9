"""Folds of all logs in a store, as this build computes them."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.offset import START
from bandit_serve.log.reader import event_of, pages
from bandit_serve.log.repairs import Repairs
from bandit_serve.registry.registry import Registry, decode_registry_event
from bandit_serve.replication.replay import replay
from bandit_serve.replication.tail import READ_COUNT, Tail
from bandit_serve.results import Report, ResultsFold, report
from bandit_serve.results.fold import CODEC
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

AS_OF_MS = 1_800_000_000_000


async def fold_all(url: str) -> dict[str, Any]:
    """Folds all logs; returns, by owner, the digest of the policy fold and the results at `AS_OF_MS`.

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
            results = await fold_results(store, owner, registry.repairs)
            about = report(results, results.record, {}, AS_OF_MS)
            folded[owner] = {
                "digest": replayed.digest,
                "snapshots": len(replayed.snapshots),
                "results": sha256(msgspec.json.encode(as_it_was(about))).hexdigest(),
                "sentence": about.reason,
            }
        return folded
    finally:
        await store.close()


def as_it_was_kept(fold: ResultsFold) -> bytes:
    """State without the decision: it is noted where a log is read, and builds that wrote these files noted none."""
    state = CODEC.unpack(fold.state())
    state.columns.pop("decision", None)
    return CODEC.pack(state)


def as_it_was(about: Report) -> Any:
    """Report without what reports did not have when the files were written."""
    shown = msgspec.to_builtins(about)
    del shown["decision"]
    for arm in shown["arms"]:
        for row in arm["metrics"].values():
            row.pop("p_value_corrected", None)
    return shown


async def snapshot_of_the_registry(store: Store) -> bytes | None:
    """State of the registry from its snapshot and the entries after it; None without a snapshot."""
    snapshot = await store.read_snapshot(COMMON, "registry")
    if snapshot is None:
        return None
    registry = Registry.from_state(snapshot.offset, snapshot.state)
    for entry in await store.read(COMMON, snapshot.offset, READ_COUNT):
        registry.apply(entry.offset, decode_registry_event(entry.kind, entry.data))
    return registry.state()


async def fold_results(store: Store, owner: str, repairs: Repairs) -> ResultsFold:
    """Folds the results of a whole log; asserts that its snapshots equal the fold at their offsets."""
    snapshots = {}
    for offset in await store.snapshot_offsets(owner, "results"):
        snapshot = await store.read_snapshot(owner, "results", offset)
        assert snapshot is not None
        snapshots[offset] = as_it_was_kept(ResultsFold.from_state(offset, snapshot.state))
    fold = None
    async for page in pages(store, owner, START):
        for entry in page.entries:
            if fold is None:
                created = events.decode(entry.kind, entry.data)
                assert isinstance(created, events.Changed)
                fold = ResultsFold(created.record)
            fold.apply(entry.offset, event_of(entry, owner, repairs, fold.n_features))
            state = snapshots.pop(entry.offset, None)
            assert state is None or state == as_it_was_kept(fold), f"the results of {owner} at {entry.offset}"
    assert not snapshots, f"of {owner}: {list(snapshots)}"
    assert fold is not None
    return fold
