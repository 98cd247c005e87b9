"""Series of tenants in `/metrics`, each with the label `tenant`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from bandit_serve.server.metrics import Counters

OF_THE_PROCESS = frozenset(
    {
        "bandit_serve_build_info",
        "bandit_serve_workers_without_store",
        "bandit_serve_connections",
        "bandit_serve_connections_ended",
        "bandit_serve_clock_offset_seconds",
        "bandit_serve_spans",
        "bandit_serve_store_max_bytes",
        "bandit_serve_store_used_bytes",
        "bandit_serve_tls_expiry_timestamp_seconds",
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
    }
)
"""Series that a tenant has no part of: of processes, connections and the store, which it shares with others."""


class TenantCollector(Collector):
    """Collector of one tenant: what `collector` has of its service.

    Series of a route begin with its first request, as many tenants with all routes would be many lines.
    """

    def __init__(self, tenant: str, collector: Collector, counters: Counters) -> None:
        self._tenant = tenant
        self._collector = collector
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        used = {route for route, outcomes, _, _ in self._counters.routes_total() if any(outcomes)}
        for metric in self._collector.collect():
            if metric.name not in OF_THE_PROCESS:
                metric.samples = [
                    sample._replace(labels={**sample.labels, "tenant": self._tenant})
                    for sample in metric.samples
                    if sample.labels.get("route") in (None, *used)
                ]
                yield metric


class WholeCollector(Collector):
    """Collector of the service and of all its tenants: series of one name stand together, as the format wants."""

    def __init__(self, own: Collector, tenants: Callable[[], Iterable[Collector]]) -> None:
        self._own = own
        self._tenants = tenants

    def collect(self) -> Iterable[Metric]:
        families = {metric.name: metric for metric in self._own.collect()}
        for tenant in self._tenants():
            for metric in tenant.collect():
                known = families.setdefault(metric.name, metric)
                if known is not metric:
                    known.samples.extend(metric.samples)
        return families.values()
