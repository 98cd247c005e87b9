"""Checks of `doctor` on the store: its fitness, its durability, and the workers on it."""

from __future__ import annotations

import asyncio

from bandit_serve.base.secrets import concealed
from bandit_serve.cli.checks import Check
from bandit_serve.errors import StoreRefused
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log.fold import EXPOSURES_FOLD, POLICY_FOLD, RESULTS_FOLD, Fold, Restore
from bandit_serve.replication.census import living
from bandit_serve.results.fold import ResultsFold
from bandit_serve.store.facts import StoreFacts, check
from bandit_serve.store.store import Store

WRONG_CLOCK_MS = 1_000
FULL, ALMOST_FULL = 0.95, 0.8
MIB = 2**20


async def check_store(store: Store, place: str) -> list[Check]:
    """Checks the store. Raises `StoreUnavailable` or `StoreRefused` if it can not be used."""
    facts = await store.facts()
    return [_usable(facts, place), _durability(facts), await _clock(store), _memory(facts)]


async def check_workers(store: Store, replica: Replica) -> Check:
    workers = await living(store)
    running = [name for name, live in replica.experiments.items() if live.record.status == "running"]
    if workers:
        pids = ", ".join(f"{worker.pid} on {worker.host}" for worker in workers)
        return Check("workers", "ok", f"{len(workers)} alive: {pids}")
    if running:
        detail = f"none is alive, and {_several(len(running), 'experiment')} should be running"
        return Check("workers", "warning", detail, "start the service: bandit-serve serve")
    return Check("workers", "ok", "none is alive; bandit-serve serve starts some")


async def check_snapshots(store: Store, replica: Replica) -> list[Check]:
    """Checks that the newest snapshots can be read. If not, logs can not be trimmed, or lose state when they are."""
    readers: tuple[tuple[str, str, Restore[Fold]], ...] = (
        (POLICY_FOLD, "snapshot", LiveExperiment.from_state),
        (RESULTS_FOLD, "snapshot of the results", ResultsFold.from_state),
        (EXPOSURES_FOLD, "snapshot of the exposures", UnitExposures.from_state),
    )
    checks = []
    for name, live in sorted(replica.experiments.items()):
        for fold, what, restore in readers:
            snapshot = await store.read_snapshot(live.owner, fold)
            if snapshot is None:
                continue
            try:
                await asyncio.to_thread(restore, *snapshot)
            except Exception as error:  # whatever bytes that somebody changed can cause
                why = f"{type(error).__name__}: {concealed(str(error))}"
                detail = f"the {what} of {name} at {snapshot.offset} can not be read: {why}"
                advice = f"the log before it is used instead; see bandit-serve replay {name}"
                checks.append(Check("state", "problem", detail, advice))
    return checks


def _several(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n} {what}s"


def _usable(facts: StoreFacts, place: str) -> Check:
    version = ".".join(map(str, facts.version))
    detail = f"{facts.name} {version}, {facts.maxmemory_policy}: {place}"
    try:
        check(facts)
    except StoreRefused as error:
        return Check("store", "problem", detail, str(error))
    if facts.maxmemory_policy == "unknown":
        advice = "make sure that its maxmemory-policy is noeviction: it does not tell"
        return Check("store", "warning", detail, advice)
    return Check("store", "ok", detail)


def _durability(facts: StoreFacts) -> Check:
    if facts.appendonly == "yes":
        return Check("durability", "ok", facts.durability)
    return Check("durability", "warning", facts.durability, "run the store with appendonly yes")


async def _clock(store: Store) -> Check:
    await store.time_ms()
    apart_ms, shift_ms = store.clock.offset_ms, store.clock.shift_ms
    detail = (
        f"this machine's is {abs(apart_ms):.0f} ms {'ahead of' if apart_ms > 0 else 'behind'} the store's"
    )
    if shift_ms:
        where = "ahead of" if shift_ms > 0 else "behind"
        detail += f", which has jumped: the logs' time is {abs(shift_ms) / 1000:.1f} s {where} it"
    if shift_ms or abs(apart_ms) > WRONG_CLOCK_MS:
        return Check("clock", "warning", detail, "set the clocks by NTP: times in answers are the store's")
    return Check("clock", "ok", detail)


def _memory(facts: StoreFacts) -> Check:
    used = f"{facts.used_memory / MIB:.1f} MiB used"
    if facts.maxmemory == 0:
        return Check("memory", "ok", f"{used}, no limit is set")
    part = facts.used_memory / facts.maxmemory
    detail = f"{used} of {facts.maxmemory / MIB:.1f} MiB ({part:.0%})"
    if part < ALMOST_FULL:
        return Check("memory", "ok", detail)
    advice = "give the store more memory, or lower --retention-time or --retention-bytes"
    return Check("memory", "problem" if part > FULL else "warning", detail, advice)
