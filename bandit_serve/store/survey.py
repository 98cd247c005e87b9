"""Survey of a store: its kind, its shards, and what an acknowledged write survives on the weakest of them."""

from __future__ import annotations

from dataclasses import dataclass

from bandit_serve.errors import StoreRefused, StoreUnavailable
from bandit_serve.store.facts import StoreFacts, check
from bandit_serve.store.failures import MOVED
from bandit_serve.store.url import Kind

# From the weakest.
PERSISTENCE = ("no", "everysec", "always")


@dataclass(frozen=True, slots=True)
class SurveyedShard:
    """Facts of a shard's master, at `address`. `n_slots` is 0 outside of a cluster."""

    address: str
    facts: StoreFacts
    n_slots: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """One reading of all shards of a store.

    n_confirming: replicas that confirm an append before it is answered, which is the setting `store_replicas`.
    n_sentinels: sentinels that watch the service. n_unserved: slots that no master of the cluster serves.
    """

    kind: Kind
    shards: tuple[SurveyedShard, ...]
    n_confirming: int = 0
    n_sentinels: int = 0
    n_unserved: int = 0

    @property
    def name(self) -> str:
        """`redis` or `valkey`."""
        return self.shards[0].facts.name

    @property
    def version(self) -> tuple[int, ...]:
        """Oldest version among the shards."""
        return min(shard.facts.version for shard in self.shards)

    @property
    def used_memory(self) -> int:
        """Bytes, of all shards together."""
        return sum(shard.facts.used_memory for shard in self.shards)

    @property
    def fullest(self) -> SurveyedShard:
        """Shard that has used the largest part of its memory; those without a limit have used none of it."""
        return max(self.shards, key=lambda shard: filled(shard.facts))

    @property
    def weakest(self) -> SurveyedShard:
        """Shard on which an acknowledged write survives least."""
        return min(self.shards, key=lambda shard: _persistence(shard.facts))

    @property
    def n_replicas(self) -> int:
        """Online replicas of the shard that has the fewest."""
        return min(shard.facts.online_replicas for shard in self.shards)

    @property
    def durability(self) -> str:
        """Sentence that says what an acknowledged write survives on this store."""
        facts = self.weakest.facts
        if not self.n_confirming:
            replicated = any(shard.facts.replicas for shard in self.shards)
            lost = "; a failover may lose what no replica had yet." if replicated else "."
        elif self.n_confirming == 1:
            lost = "; one replica had it before the answer: a failover to that one loses nothing."
        else:
            lost = f"; {self.n_confirming} replicas had it before the answer: a failover to one of them loses nothing."
        return facts.on_this_node + lost


def check_all(survey: Survey) -> None:
    """Raises StoreRefused where a shard may not be used, and StoreUnavailable where slots have no master."""
    for shard in survey.shards:
        try:
            check(shard.facts, in_cluster=survey.kind == "cluster")
        except StoreRefused as error:
            if len(survey.shards) > 1:
                error.noted(f"the shard at {shard.address}")
            raise
    if survey.n_unserved:
        raise StoreUnavailable(f"{survey.n_unserved} slots of the cluster have no master now.", what=MOVED)


def filled(facts: StoreFacts) -> float:
    """Used part of a server's memory limit; 0 without one."""
    return facts.used_memory / facts.maxmemory if facts.maxmemory else 0.0


def _persistence(facts: StoreFacts) -> tuple[bool, int]:
    fsync = facts.appendfsync
    return facts.appendonly == "yes", PERSISTENCE.index(fsync) if fsync in PERSISTENCE else 0
