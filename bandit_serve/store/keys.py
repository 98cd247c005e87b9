"""Keys in the store: the type, lifetime and purpose of each.

All keys of one experiment share a hash tag, and all keys of the service as a whole share `{.common}`. So each group
lives in one slot of a cluster, and a script may touch every key it needs. No experiment can be called `.common`,
because names start with a letter or a digit. `log/owner.py` defines owners: an experiment that was deleted and created
again under its old name has its number behind the name.

On a single server the tag is the experiment: `{checkout}:log`. On a cluster it is one of 128 buckets:
`{b17}checkout:log`. So the logs of 10,000 experiments are in at most 128 slots, and one XREAD reads a bucket.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

from bandit_serve.log.owner import MARK

COMMON = ".common"
OF_TENANT = "/"
"""Between a service's namespace and a tenant's name. No namespace has it, so nobody else's begins with it."""


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """Hash tags of the keys: one for each experiment, or one for each of so many buckets of experiments."""

    buckets: int = 0

    def __str__(self) -> str:
        return f"buckets:{self.buckets}" if self.buckets else "experiments"

    def tag(self, owner: str) -> str:
        """Hash tag of an owner's keys."""
        name = owner.partition(MARK)[0]
        if not self.buckets or name == COMMON:
            return name
        return f"b{crc32(name.encode()) % self.buckets}"

    def together(self, owners: Iterable[str]) -> list[list[str]]:
        """Groups owners whose keys one command may name: all of them on a single server, else those of a bucket."""
        if not self.buckets:
            return [list(owners)]
        groups: dict[str, list[str]] = {}
        for owner in owners:
            groups.setdefault(self.tag(owner), []).append(owner)
        return list(groups.values())


BY_EXPERIMENT = KeyLayout()
BY_BUCKET = KeyLayout(128)
"""Layout of a cluster. Another number of buckets would be another layout."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys. `namespace` lets several services share one store; a tenant's is `SERVICE/TENANT`."""

    namespace: str = "bandit_serve"
    layout: KeyLayout = BY_EXPERIMENT

    @property
    def _service(self) -> str:
        """Namespace of the service. Its tenants have its workers, and so its clock."""
        return self.namespace.partition(OF_TENANT)[0]

    def _of(self, owner: str) -> str:
        name, mark, generation = owner.partition(MARK)
        if self.layout.buckets and name != COMMON:
            return f"{self.namespace}:{{{self.layout.tag(owner)}}}{owner}"
        return f"{self.namespace}:{{{name}}}{mark}{generation}"

    @property
    def layout_mark(self) -> str:
        """String, for ever: the layout of the keys, where that is not a hash tag for each experiment."""
        return f"{self.namespace}:{{{COMMON}}}:layout"

    def log(self, owner: str) -> str:
        """Stream, trimmed by retention: the log of an experiment, or of the registry (`COMMON`)."""
        return f"{self._of(owner)}:log"

    def head(self, owner: str) -> str:
        """String, for ever: the revision of the last configuration change. Each change compares and sets it."""
        return f"{self._of(owner)}:head"

    def snapshots(self, owner: str, fold: str) -> str:
        """Hash of log offset to state, kept as far back as the log: a fold starts from one of them."""
        return f"{self._of(owner)}:snapshots:{fold}"

    def snapshot_pieces(self, owner: str, fold: str, offset: str) -> str:
        """Hash of number to piece, as long as its snapshot, minutes if that never becomes whole: a large snapshot."""
        return f"{self.snapshots(owner, fold)}:{offset}"

    def trimmed(self, owner: str) -> str:
        """String, for ever: the last offset that was trimmed from the log. A reader behind it starts over."""
        return f"{self._of(owner)}:trimmed"

    def seen(self, owner: str, metric: str, incarnation: int, block: int) -> str:
        """Bitmap with a bit for each of the 65,536 decisions of a block: which of them have a value in the log.

        Lives, by log time, until the last token of its decisions has expired: decision time + window + grace.
        """
        return f"{self._of(owner)}:seen:{metric}:{incarnation:016x}:{block}"

    def plain(self, owner: str, metric: str, incarnation: int, block: int) -> str:
        """String or hash, as long as `seen`: the values of plain rewards (counting.lua).

        Of a two-valued metric, a bitmap with two bits for each of the 65,536 decisions of a block; of another, a hash
        with a field for each reward of a block of 512 decisions, which a store keeps as one packed list.
        """
        return f"{self._of(owner)}:plain:{metric}:{incarnation:016x}:{block}"

    def events(self, owner: str, metric: str, incarnation: int, block: int) -> str:
        """Hash, as long as `seen`: the events of a block of 256 decisions, and their sums (append_events.lua)."""
        return f"{self._of(owner)}:events:{metric}:{incarnation:016x}:{block}"

    def unit_events(self, owner: str, unit: int, period: int) -> str:
        """Hash, as long as `seen`: the events of a unit's decisions of one period, and their sums (append_events.lua).

        A period is as long as an event may be known: attribution window + grace.
        """
        return f"{self._of(owner)}:events:{unit:016x}:{period}"

    def last_sent(self, owner: str, unit: int, metric: int, event: int) -> str:
        """String, two minutes: the mark of what was sent last of a unit's event, while it may wait for its exposure."""
        return f"{self._of(owner)}:last-sent:{unit:016x}:{metric}:{event:016x}"

    def exposed(self, owner: str, incarnation: int) -> str:
        """String, one week after its last change: the number of the next exposure that a worker may append.

        It keeps a repeated flush from appending the same exposures twice.
        """
        return f"{self._of(owner)}:exposed:{incarnation:016x}"

    def demanded(self, owner: str, incarnation: int, block: int) -> str:
        """Bitmap with a bit for each of the 65,536 decisions of a block: which exposures on demand are in the log.

        Lives as `seen`.
        """
        return f"{self._of(owner)}:demanded:{incarnation:016x}:{block}"

    def expiries(self, owner: str) -> str:
        """Sorted set, for ever: keys of this log by the log time at which `Store.sweep` may delete them.

        The store's own expiry follows its clock, and would delete them too early when that clock is set ahead.
        """
        return f"{self._of(owner)}:expiries"

    def mark(self, owner: str, name: str) -> str:
        """String or hash, as long as `seen`: a mark of a log by its own name, as `seen:METRIC:INCARNATION:BLOCK`."""
        return f"{self._of(owner)}:{name}"

    def census(self, owner: str, name: str) -> str:
        """Hash of worker to digest, one minute: the answers to a `Census` event."""
        return f"{self._of(owner)}:census:{name}"

    @property
    def identity(self) -> str:
        """String, for ever: a random number that identifies this store's data."""
        return f"{self.namespace}:{{{COMMON}}}:id"

    @property
    def clock(self) -> str:
        """Hash, for ever: log time minus the store's clock, and the last log time that was read (read_clock.lua)."""
        return f"{self._service}:{{{COMMON}}}:clock"

    @property
    def notices(self) -> str:
        """Hash of id to notice, until each is delivered or given up: what webhooks are still to be told."""
        return f"{self.namespace}:{{{COMMON}}}:notices"

    @property
    def told(self) -> str:
        """Sorted set, for days or for ever: names of notices by the log time at which each may be told again."""
        return f"{self.namespace}:{{{COMMON}}}:told"

    @property
    def restoring(self) -> str:
        """String, while a restore writes, and after one that did not finish: the backup that it writes."""
        return f"{self.namespace}:{{{COMMON}}}:restoring"

    @property
    def token_keys(self) -> str:
        """Hash of key id to creation time and key, for ever: the keys that sign decision tokens."""
        return f"{self.namespace}:{{{COMMON}}}:token-keys"

    @property
    def lease(self) -> str:
        """String, seconds: the worker that holds the lease, which writes snapshots, trims logs and appends ticks."""
        return f"{self.namespace}:{{{COMMON}}}:lease"

    def artifact(self, sha256: str) -> str:
        """Hash of number to chunk, as long as a version needs it: a model file that is kept in the store."""
        return f"{self.namespace}:{{{sha256[:4]}}}:artifact:{sha256}"

    def agreement(self, model: str, version: str) -> str:
        """Hash of worker to sums, thirty days after the last: how a shadow version agrees with the answers given."""
        return f"{self.namespace}:{{{COMMON}}}:agreement:{model}:{version}"

    @property
    def loaded(self) -> str:
        """Hash of worker to its loaded models, one minute after the last report: which models are in memory where."""
        return f"{self.namespace}:{{{COMMON}}}:loaded"

    def learner(self, model: str) -> str:
        """String, seconds: the process that learns for a model, so that no second one does."""
        return f"{self.namespace}:{{{COMMON}}}:learner:{model}"

    def trainer(self, model: str) -> str:
        """String, seconds: the process that trains a model again, so that no second one does."""
        return f"{self.namespace}:{{{COMMON}}}:trainer:{model}"

    @property
    def learner_reports(self) -> str:
        """Hash of model to report, for ever: how far each process that learns was behind its logs, and when."""
        return f"{self.namespace}:{{{COMMON}}}:learner-reports"

    @property
    def measurements(self) -> str:
        """String, one minute: what the lease holder has measured, for the metrics of all workers."""
        return f"{self.namespace}:{{{COMMON}}}:measurements"

    def acknowledgements(self, owner: str, offset: str) -> str:
        """Hash of worker to nothing, one minute: the workers that have applied the change at an offset."""
        return f"{self._of(owner)}:heard:{offset}"

    @property
    def workers(self) -> str:
        """Sorted set, each member seconds: the workers' descriptions of themselves, by the time they count as dead."""
        return f"{self._service}:{{{COMMON}}}:workers"

    def top_k(self, digest: str) -> str:
        """String, the cache's lifetime: a top-k answer, by model version and inputs."""
        return f"{self.namespace}:{{{digest[:4]}}}:top-k:{digest}"


def common_keys_of_tenants(namespace: str) -> str:
    """Glob pattern of the common keys of all tenants of a service; each tenant has some. No namespace has wildcards."""
    return f"{namespace}{OF_TENANT}*:{{{COMMON}}}:*"
