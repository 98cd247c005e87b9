"""Every key in the store: its type, how long it lives, and why it is there.

All keys of one experiment share the hash tag `{experiment}`, and all that is common to the service shares
`{.common}`, so each lives in one slot of a cluster and a script may touch everything it needs. No experiment can be
called `.common`: names start with a letter or a digit. An owner is what `owner.py` says; of one that is not the first
of its name, the keys have its number behind the tag.
"""

from __future__ import annotations

from dataclasses import dataclass

from bandit_serve.log.owner import MARK

COMMON = ".common"


@dataclass(frozen=True, slots=True)
class Keys:
    """`namespace` lets several services share one store."""

    namespace: str = "bandit_serve"

    def _of(self, owner: str) -> str:
        name, mark, generation = owner.partition(MARK)
        return f"{self.namespace}:{{{name}}}{mark}{generation}"

    def log(self, owner: str) -> str:
        """Stream, trimmed by retention: the log of an experiment, or of the registry (`COMMON`)."""
        return f"{self._of(owner)}:log"

    def head(self, owner: str) -> str:
        """String, for ever: the revision of the last configuration change. Changes compare and set it."""
        return f"{self._of(owner)}:head"

    def snapshots(self, owner: str, fold: str) -> str:
        """Hash of log offset to state, as long as the log reaches back: where a fold starts from."""
        return f"{self._of(owner)}:snapshots:{fold}"

    def snapshot_pieces(self, owner: str, fold: str, offset: str) -> str:
        """Hash of number to piece, as long as its snapshot, minutes until that is whole: a state that is large."""
        return f"{self.snapshots(owner, fold)}:{offset}"

    def trimmed(self, owner: str) -> str:
        """String, for ever: the last offset that is no longer in the log. A reader behind it starts over."""
        return f"{self._of(owner)}:trimmed"

    def seen(self, owner: str, metric: str, incarnation: int, block: int) -> str:
        """Bitmap, one bit a decision and 65,536 in a block: which rewards are in the log.

        Lives until the youngest token that it must refuse has expired, by the log's time: its time + window + grace.
        """
        return f"{self._of(owner)}:seen:{metric}:{incarnation:016x}:{block}"

    def exposed(self, owner: str, incarnation: int) -> str:
        """String, a week after the last: the next exposure that this worker may append, so that a repeated flush adds
        nothing.
        """
        return f"{self._of(owner)}:exposed:{incarnation:016x}"

    def expiries(self, owner: str) -> str:
        """Sorted set, for ever: keys of this log, by the log's time at which they may go (`Store.sweep`).

        The store's own expiry follows its clock, and would end them early where that is set ahead.
        """
        return f"{self._of(owner)}:expiries"

    def census(self, owner: str, name: str) -> str:
        """Hash of worker to digest, one minute: the answers to a `Census` event."""
        return f"{self._of(owner)}:census:{name}"

    @property
    def identity(self) -> str:
        """String, for ever: a random number that tells this store's data from any other's."""
        return f"{self.namespace}:{{{COMMON}}}:id"

    @property
    def clock(self) -> str:
        """Hash, for ever: what the logs' time is ahead of the store's clock, and a mark of it (read_clock.lua)."""
        return f"{self.namespace}:{{{COMMON}}}:clock"

    @property
    def token_keys(self) -> str:
        """Hash of key id to creation time and key, for ever: what decision tokens are signed with."""
        return f"{self.namespace}:{{{COMMON}}}:token-keys"

    @property
    def lease(self) -> str:
        """String, seconds: the worker that writes snapshots, trims and ticks."""
        return f"{self.namespace}:{{{COMMON}}}:lease"

    def artifact(self, sha256: str) -> str:
        """Hash of number to chunk, as long as a version needs it: a model file, where they are kept in the store."""
        return f"{self.namespace}:{{{sha256[:4]}}}:artifact:{sha256}"

    def agreement(self, model: str, version: str) -> str:
        """Hash of worker to sums, thirty days after the last: how a shadow version agrees with what was answered."""
        return f"{self.namespace}:{{{COMMON}}}:agreement:{model}:{version}"

    @property
    def loaded(self) -> str:
        """Hash of worker to what it has in memory, as long as a worker says so: which models are loaded where."""
        return f"{self.namespace}:{{{COMMON}}}:loaded"

    def learner(self, model: str) -> str:
        """String, seconds: the process that learns for a model."""
        return f"{self.namespace}:{{{COMMON}}}:learner:{model}"

    def acknowledgements(self, owner: str, offset: str) -> str:
        """Hash of worker to nothing, one minute: who has applied the change at an offset."""
        return f"{self._of(owner)}:heard:{offset}"

    @property
    def workers(self) -> str:
        """Sorted set, each member seconds: what the workers say of themselves, by when they count as dead."""
        return f"{self.namespace}:{{{COMMON}}}:workers"

    def top_k(self, digest: str) -> str:
        """String, the cache's lifetime: a top-k answer, by model version and inputs."""
        return f"{self.namespace}:{{{digest[:4]}}}:top-k:{digest}"
