"""Checks of `doctor` on the shards of a store: their replicas, and what a failover may lose."""

from __future__ import annotations

from collections.abc import Iterator

from bandit_serve.cli.checks import Check
from bandit_serve.store.survey import Survey, SurveyedShard

MIN_SENTINELS = 3


def check_shards(survey: Survey) -> Iterator[Check]:
    """Yields one check for each shard, and one on failovers; nothing for a single server without replicas."""
    replicated = any(shard.facts.replicas for shard in survey.shards)
    if survey.kind == "single" and not replicated and not survey.n_confirming:
        return
    if survey.kind != "single":
        for shard in survey.shards:
            yield _shard(shard, survey)
    yield _failover(survey)


def _shard(shard: SurveyedShard, survey: Survey) -> Check:
    facts = shard.facts
    detail = f"master at {shard.address}, {_counted(facts.online_replicas, 'replica')}"
    if facts.replicas > facts.online_replicas:
        detail += f" and {facts.replicas - facts.online_replicas} that copies the data yet"
    if survey.kind == "cluster":
        detail += f", {_counted(shard.n_slots, 'slot')}"
    else:
        detail += f", watched by {_counted(survey.n_sentinels, 'sentinel')}"
    if not facts.online_replicas:
        return Check("shard", "warning", detail, "add a replica: nothing takes over when this master is lost")
    if survey.kind == "sentinel" and survey.n_sentinels < MIN_SENTINELS:
        return Check("shard", "warning", detail, "run three sentinels: fewer can not agree on a failover")
    return Check("shard", "ok", detail)


def _failover(survey: Survey) -> Check:
    wanted, present = survey.n_confirming, survey.n_replicas
    if wanted > present:
        detail = f"store_replicas is {wanted}, and a shard has {_counted(present, 'replica')}"
        return Check(
            "failover", "problem", detail, "rewards there are answered 503: add replicas, or lower it"
        )
    if not wanted:
        detail = (
            "may lose rewards that were acknowledged in the moment before it: those that no replica had yet"
        )
        if _is_guarded(survey):
            return Check("failover", "ok", detail)
        advice = (
            "set min-replicas-to-write 1 on the servers, or a master that is cut off goes on taking rewards, which are "
            "lost; with --store-replicas 1 each reward waits for a replica"
        )
        return Check("failover", "warning", detail, advice)
    detail = f"loses no acknowledged reward while one of {_counted(wanted, 'replica')} that confirmed it takes over"
    if wanted == present:
        detail += "; after it, rewards of that shard wait until it has as many replicas again"
    if _is_guarded(survey):
        return Check("failover", "ok", detail)
    return Check(
        "failover", "warning", detail, "set min-replicas-to-write 1 on the servers, for all other writes"
    )


def _is_guarded(survey: Survey) -> bool:
    """Whether every master takes no writes while it has no replica. One that hides its configuration is believed to."""
    return all(shard.facts.min_replicas != "0" for shard in survey.shards)


def _counted(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n} {what}s"
