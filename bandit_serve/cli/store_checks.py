"""Checks of `doctor` on the store: its fitness, its durability, and the workers on it."""

from __future__ import annotations

import asyncio
from collections import Counter

from msgspec import UNSET

from bandit_serve.base.secrets import concealed
from bandit_serve.cli.checks import Check
from bandit_serve.cli.shard_checks import check_shards
from bandit_serve.errors import StoreUnavailable, in_full
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log.fold import EXPOSURES_FOLD, POLICY_FOLD, RESULTS_FOLD, Fold, Restore
from bandit_serve.replication.census import living
from bandit_serve.results.fold import ResultsFold
from bandit_serve.store.store import Store
from bandit_serve.store.survey import Survey, check_all, filled
from bandit_serve.store.url import Kind

WRONG_CLOCK_MS = 1_000
FULL, ALMOST_FULL = 0.95, 0.8
MIB = 2**20
SKEW = "finish the upgrade, or take it back: what an older build can not read, its workers set aside"
KINDS: dict[Kind, str] = {"single": "single server", "sentinel": "behind sentinel", "cluster": "cluster"}


async def check_store(store: Store, place: str) -> list[Check]:
    """Checks the store. Raises `StoreUnavailable` or `StoreRefused` if it can not be used."""
    survey = await store.facts()
    checks = [_usable(survey, place), *check_shards(survey), _durability(survey)]
    return [*checks, await _clock(store), _memory(survey)]


async def check_workers(store: Store, replica: Replica) -> Check:
    workers = await living(store)
    running = [name for name, live in replica.experiments.items() if live.record.status == "running"]
    if workers:
        pids = ", ".join(f"{worker.pid} on {worker.host}" for worker in workers)
        detail = f"{len(workers)} alive: {pids}"
        builds = Counter("an older build" if worker.build is UNSET else worker.build for worker in workers)
        if len(builds) > 1:
            each = ", ".join(f"{n} of {name}" for name, n in sorted(builds.items()))
            return Check("workers", "warning", f"{detail}; {each}", SKEW)
        return Check("workers", "ok", f"{detail}; of {', '.join(builds)}")
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


def _usable(survey: Survey, place: str) -> Check:
    version = ".".join(map(str, survey.version))
    policies = sorted({shard.facts.maxmemory_policy for shard in survey.shards})
    detail = f"{survey.name} {version}, {KINDS[survey.kind]}, {' and '.join(policies)}: {place}"
    try:
        check_all(survey)
    except StoreUnavailable as error:
        return Check("store", "problem", detail, in_full(error))
    if "unknown" in policies:
        advice = "make sure that its maxmemory-policy is noeviction: it does not tell"
        return Check("store", "warning", detail, advice)
    return Check("store", "ok", detail)


def _durability(survey: Survey) -> Check:
    if survey.weakest.facts.appendonly == "yes":
        return Check("durability", "ok", survey.durability)
    return Check("durability", "warning", survey.durability, "run the store with appendonly yes")


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


def _memory(survey: Survey) -> Check:
    fullest, of = survey.fullest.facts, ""
    if len(survey.shards) > 1:
        of = f" on the fullest shard, at {survey.fullest.address}"
    used = f"{fullest.used_memory / MIB:.1f} MiB used"
    if fullest.maxmemory == 0:
        return Check("memory", "ok", f"{used}{of}, no limit is set")
    part = filled(fullest)
    detail = f"{used} of {fullest.maxmemory / MIB:.1f} MiB ({part:.0%}){of}"
    if part < ALMOST_FULL:
        return Check("memory", "ok", detail)
    advice = "give the store more memory, or lower --retention-time or --retention-bytes"
    return Check("memory", "problem" if part > FULL else "warning", detail, advice)
