"""Node: the parts of one process, wired in one place: store, copy of the state, models, and changes.

A worker serves with a node (`server/service.py`); a command has one for as long as it runs (`cli/access.py`).
"""

from __future__ import annotations

from functools import cached_property

from bandit_serve.base.troubles import Troubles
from bandit_serve.changes.automatic import AutomaticChanges
from bandit_serve.changes.changes import Changes
from bandit_serve.changes.definitions import DefinitionChanges
from bandit_serve.changes.experiments import ExperimentChanges
from bandit_serve.changes.keys import KeyChanges
from bandit_serve.changes.models import ModelChanges
from bandit_serve.folds.replica import Replica
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.registry.artifact_store import open_artifacts
from bandit_serve.registry.registry import Registry
from bandit_serve.registry.tenants import settings_of
from bandit_serve.replication.exposures_log import ExposuresLog
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.replication.segmented_results import SegmentedResults
from bandit_serve.replication.tail import Tail
from bandit_serve.serving.kinds import VersionOpener
from bandit_serve.serving.loaded import LoadedModels
from bandit_serve.serving.top_k_cache import MAX_BYTES, MAX_TENANT_BYTES, TopKCache
from bandit_serve.settings import Settings, TenantLimits
from bandit_serve.store.store import Store
from bandit_serve.upstreams.pool import UpstreamPool
from bandit_serve.upstreams.upstream import AllowedUpstreams


class Node:
    """Store, replica, log readers, models and changes of one process.

    Nothing is read before `tail.load`. Parts that need the artifacts are made at their first use, because that makes
    the artifacts' directory; they raise `UsageError` where the settings allow none.

    A tenant's node has settings and `limits` of its own. In a worker it is `beside` that of the service, and shares its
    connections and its memory for models.
    """

    def __init__(
        self,
        settings: Settings,
        store_url: str,
        limits: TenantLimits | None = None,
        *,
        beside: Node | None = None,
    ) -> None:
        self.settings = settings
        self.limits = limits or TenantLimits()
        self._beside = beside
        self.store: Store = Store(
            store_url,
            namespace=settings.namespace,
            timeout_s=settings.seconds("store_timeout"),
            replicas=settings.store_replicas,
            beside=None if beside is None else beside.store,
        )
        self.troubles = Troubles()
        self.replica = Replica()
        self.tail = Tail(self.store, self.replica)
        self.results = ResultsLog(self.store, self.replica)
        self.segmented_results = SegmentedResults(self.store, self.replica, self.results)
        self.upstreams = UpstreamPool(AllowedUpstreams(settings.upstream_prefixes))
        self.exposures = ExposuresLog(self.store, self.replica)

    @cached_property
    def artifacts(self) -> ArtifactStore:
        return open_artifacts(self.settings, self.store.url)

    @cached_property
    def top_k(self) -> TopKCache:
        return TopKCache(
            self.store,
            lifetime_s=self.settings.seconds("top_k_lifetime"),
            max_bytes=MAX_BYTES if self._beside is None else MAX_TENANT_BYTES,
        )

    @cached_property
    def models(self) -> LoadedModels:
        opener = VersionOpener(self.artifacts, self.top_k, self.upstreams)
        return LoadedModels(
            opener,
            max_bytes=self.settings.model_memory,
            troubles=self.troubles,
            beside=None if self._beside is None else self._beside.models,
            limit_bytes=self.limits.model_memory,
        )

    @cached_property
    def changes(self) -> Changes:
        return Changes(self.store, self.replica, self.tail)

    @cached_property
    def experiment_changes(self) -> ExperimentChanges:
        return ExperimentChanges(
            self.store,
            self.replica,
            self.tail,
            self.changes,
            self.models,
            max_experiments=self.limits.experiments,
        )

    @cached_property
    def definition_changes(self) -> DefinitionChanges:
        return DefinitionChanges(self.replica, self.tail, self.changes)

    @cached_property
    def key_changes(self) -> KeyChanges:
        return KeyChanges(self.store, self.replica, self.tail, self.changes)

    @cached_property
    def automatic_changes(self) -> AutomaticChanges:
        return AutomaticChanges(self.store, self.replica, self.changes, self.experiment_changes)

    @cached_property
    def model_changes(self) -> ModelChanges:
        return ModelChanges(
            self.store, self.replica, self.tail, self.changes, self.models, self.upstreams.allowed
        )

    def of_tenant(self, tenant: str) -> Node:
        """Node of a tenant beside this one, which is to be closed after it."""
        return Node(
            settings_of(self.settings, tenant), self.store.url, self.settings.limits_of(tenant), beside=self
        )

    async def read_registry(self) -> Registry:
        """Folds the registry's log anew and returns the result; `replica` does not change."""
        replica = Replica()
        await Tail(self.store, replica).load_registry()
        return replica.registry
