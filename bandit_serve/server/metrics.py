"""Counters in memory that all workers share, and their reading by Prometheus.

Each worker counts in a slot of its own, without locks; any worker answers a scrape for all. The set of series is
fixed by the routes and by the experiments that exist, never by what a request says.
"""

from __future__ import annotations

import itertools
import mmap
import os
import platform
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bandit_serve import __version__
from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.base.clock import now_ms
from bandit_serve.base.turns import ThreadTurn
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.server._counter_row import CounterRow
from bandit_serve.upkeep.measurements import Measurements

VERDICTS: tuple[str, ...] = get_args(RewardVerdict)
OUTCOMES = ("2xx", "4xx", "5xx")
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
AUTOMATIC = ("start", "stop", "pause_arm")
LIMITS = ("requests", "experiments", "model_memory", "batch")
SCALARS = (
    "decisions",
    "predictions",
    *(f"rewards_{verdict}" for verdict in VERDICTS),
    "exposures_lost",
    "exposures_dropped",
    "unmatched_dropped",
    "ejections",
    "ejected_arms",
    "content_refusals",
    "context_missing",
    "context_unknown",
    "context_unexpected",
    "top_k_hits",
    "top_k_misses",
    "store_away",
    "task_failures",
    "chores_failed",
    *(f"automatic_{what}" for what in AUTOMATIC),
    *(f"webhooks_{result}" for result in ("delivered", "failed", "given_up", "waiting")),
    "connections",
    "connections_crowded",
    "connections_late",
    "connections_unread",
    "connections_handshake",
    "tls_expiry_s",
    "spans_sent",
    "spans_dropped",
    "clock_offset_s",
    "cpu_s",
    "resident_bytes",
    "open_files",
    *(f"limited_{limit}" for limit in LIMITS),
    "tail_lag_s",
)
GAUGES = (
    "exposures_dropped",
    "ejected_arms",
    "store_away",
    "webhooks_waiting",
    "connections",
    "tls_expiry_s",
    "clock_offset_s",
    "resident_bytes",
    "open_files",
    "tail_lag_s",
)
"""Scalars that say how a worker is now, and nothing of one that has left."""
MAX_EXPERIMENT_SERIES = 5_000
_PER_HISTOGRAM = len(BUCKETS_S) + 2
_PER_ROUTE = len(OUTCOMES) + _PER_HISTOGRAM


class Counters(CounterRow):
    """Counters as float64, `n_slots` rows: in the shared file `fd` from `start` on, a whole number of pages, or in
    memory without one. The file is made large enough.

    This worker writes row `slot`.
    """

    def __init__(
        self, routes: Sequence[str], *, n_slots: int = 1, slot: int = 0, fd: int = -1, start: int = 0
    ) -> None:
        self.routes = tuple(routes)
        appends = len(SCALARS) + len(self.routes) * _PER_ROUTE
        self._appends = appends
        self._width = appends + _PER_HISTOGRAM
        self.n_slots, self.slot, self.fd = n_slots, slot, fd
        size = 8 * n_slots * self._width
        # One byte more at least, which `enlarge` may write.
        self.nbytes = (size // mmap.ALLOCATIONGRANULARITY + 1) * mmap.ALLOCATIONGRANULARITY
        if fd >= 0:
            enlarge(fd, start + self.nbytes)
        self._map = mmap.mmap(fd, size, offset=start)
        self._all = memoryview(self._map).cast("d")
        mine = self._all[slot * self._width : (slot + 1) * self._width]
        self._scalars = {name: i for i, name in enumerate(SCALARS)}
        self._starts = {route: len(SCALARS) + i * _PER_ROUTE for i, route in enumerate(self.routes)}
        super().__init__(mine, self._scalars, self._starts, appends, array("d", BUCKETS_S))
        self.leave()

    def leave(self) -> None:
        """Takes back the gauges of this worker, or of the one that had its row before."""
        for scalar in GAUGES:
            self.set(scalar, 0.0)

    def clear(self) -> None:
        """Sets the counters of all workers to zero."""
        for place in range(len(self._all)):
            self._all[place] = 0.0

    def appends_total(self) -> tuple[list[float], float]:
        """Sums over workers: appends by latency bucket (not cumulated), and seconds."""
        sums = [self._sum(self._appends + i) for i in range(_PER_HISTOGRAM)]
        return sums[:-1], sums[-1]

    def total(self, scalar: str) -> float:
        return self._sum(self._scalars[scalar])

    def farthest(self, scalar: str) -> float:
        """Value that is farthest from 0 among those of all workers."""
        place = self._scalars[scalar]
        return max((self._all[slot * self._width + place] for slot in range(self.n_slots)), key=abs)

    def earliest(self, scalar: str) -> float | None:
        """Least value above 0 among those of all workers; None where there is none."""
        place = self._scalars[scalar]
        values = (self._all[slot * self._width + place] for slot in range(self.n_slots))
        return min((value for value in values if value > 0.0), default=None)

    def _sum(self, place: int) -> float:
        return sum(self._all[slot * self._width + place] for slot in range(self.n_slots))

    def routes_total(self) -> Iterator[tuple[str, list[float], list[float], float]]:
        """Sums over workers for each route: requests by outcome, by latency bucket (not cumulated), and seconds."""
        for route, start in self._starts.items():
            sums = [self._sum(start + i) for i in range(_PER_ROUTE)]
            yield route, sums[:3], sums[3:-1], sums[-1]


def enlarge(fd: int, n_bytes: int) -> None:
    """Makes a file at least so large, also where others do so at the same time. What was not written reads as zeros."""
    if os.fstat(fd).st_size < n_bytes:
        os.pwrite(fd, b"\0", n_bytes - 1)


SharesOf = Callable[[str], NDArray[np.float64] | None]
"""Current shares of an experiment's arms, in their order; None where this worker has none."""


class ServiceCollector(Collector):
    """Collector for a scrape: counters of all workers, and figures of each experiment from its log."""

    def __init__(
        self,
        counters: Counters,
        replica: Replica,
        shares_of: SharesOf,
        *,
        measured: Callable[[], Measurements | None] = lambda: None,
        now_ms: Callable[[], int] = now_ms,
        retention_s: float = 0.0,
    ) -> None:
        self._counters = counters
        self._replica = replica
        self._shares_of = shares_of
        self._measured = measured
        self._now_ms = now_ms
        self._retention_s = retention_s

    def collect(self) -> Iterable[Metric]:
        """Metrics of a scrape, which is made in a thread."""
        turn = ThreadTurn()
        for metric in self._metrics():
            turn.give_way()
            yield metric

    def _metrics(self) -> Iterable[Metric]:
        yield from self._requests()
        yield from self._totals()
        yield from self._processes()
        yield from self._experiments()
        yield from self._of_measurements()
        yield self._set_aside()

    def _processes(self) -> Iterable[Metric]:
        total = self._counters.total
        build = GaugeMetricFamily(
            "bandit_serve_build_info", "1, with the versions that run.", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1.0)
        yield build
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU of all workers, user and system.", total("cpu_s")
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory, summed over workers; what they share counts for each.",
            total("resident_bytes"),
        )
        yield GaugeMetricFamily(
            "process_open_fds", "Open files and sockets, summed over workers.", total("open_files")
        )

    def _requests(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "bandit_serve_requests", "Requests answered.", labels=["route", "outcome"]
        )
        latency = HistogramMetricFamily(
            "bandit_serve_request_seconds",
            "From the parsed head of a request to its answer.",
            labels=["route"],
        )
        for route, outcomes, buckets, seconds in self._counters.routes_total():
            for outcome, count in zip(OUTCOMES, outcomes, strict=True):
                requests.add_metric([route, outcome], count)
            latency.add_metric([route], _cumulated(buckets), seconds)
        return (requests, latency)

    def _totals(self) -> Iterable[Metric]:
        total = self._counters.total
        rewards = CounterMetricFamily("bandit_serve_rewards", "Rewards by verdict.", labels=["verdict"])
        for verdict in VERDICTS:
            rewards.add_metric([verdict], total(f"rewards_{verdict}"))
        yield rewards
        yield CounterMetricFamily("bandit_serve_decisions", "Decisions made.", total("decisions"))
        yield CounterMetricFamily("bandit_serve_predictions", "Predictions made.", total("predictions"))
        yield CounterMetricFamily(
            "bandit_serve_exposures_lost",
            "Exposures dropped because the store was away.",
            total("exposures_lost"),
        )
        yield GaugeMetricFamily(
            "bandit_serve_exposures_dropped",
            "Exposures in memory for rewards by unit that went before their window closed, as there were too many.",
            self._counters.farthest("exposures_dropped"),
        )
        yield CounterMetricFamily(
            "bandit_serve_unmatched_dropped",
            "Unmatched rewards by unit that no worker looks for any more, as there were too many.",
            total("unmatched_dropped"),
        )
        context = CounterMetricFamily(
            "bandit_serve_context_values",
            "Values of contexts that were missing, unknown to the schema, or of no field.",
            labels=["fault"],
        )
        for fault in ("missing", "unknown", "unexpected"):
            context.add_metric([fault], total(f"context_{fault}"))
        yield context
        yield CounterMetricFamily(
            "bandit_serve_ejections",
            "Times that a worker left out an arm whose model had failed.",
            total("ejections"),
        )
        yield GaugeMetricFamily(
            "bandit_serve_ejected_arms",
            "Arms that are left out now, summed over workers.",
            total("ejected_arms"),
        )
        yield CounterMetricFamily(
            "bandit_serve_content_refusals",
            "Times that an arm's version refused the content of a request, which then went to another arm.",
            total("content_refusals"),
        )
        cache = CounterMetricFamily("bandit_serve_top_k_cache", "Top-k answers.", labels=["result"])
        cache.add_metric(["hit"], total("top_k_hits"))
        cache.add_metric(["miss"], total("top_k_misses"))
        yield cache
        yield CounterMetricFamily(
            "bandit_serve_task_failures",
            "Times that a task beside the requests failed and began again.",
            total("task_failures"),
        )
        yield GaugeMetricFamily(
            "bandit_serve_workers_without_store",
            "Workers that can not read from the store or write to it.",
            total("store_away"),
        )
        yield CounterMetricFamily(
            "bandit_serve_chores_failed",
            "Snapshots, trims and rotations of keys that failed, each tried again later.",
            total("chores_failed"),
        )
        automatic = CounterMetricFamily(
            "bandit_serve_automatic_changes",
            "Changes of experiments that the service made by itself: by time, by a rule, or for a guardrail.",
            labels=["what"],
        )
        for what in AUTOMATIC:
            automatic.add_metric([what], total(f"automatic_{what}"))
        yield automatic
        webhooks = CounterMetricFamily(
            "bandit_serve_webhooks",
            "Notices to webhooks: delivered, tries that failed, and those given up after a day.",
            labels=["result"],
        )
        for result in ("delivered", "failed", "given_up"):
            webhooks.add_metric([result], total(f"webhooks_{result}"))
        yield webhooks
        yield GaugeMetricFamily(
            "bandit_serve_webhooks_waiting",
            "Notices that webhooks are still to be told of.",
            total("webhooks_waiting"),
        )
        limited = CounterMetricFamily(
            "bandit_serve_limited", "Requests refused because of a tenant's limit.", labels=["limit"]
        )
        for limit in LIMITS:
            limited.add_metric([limit], total(f"limited_{limit}"))
        yield limited
        yield GaugeMetricFamily(
            "bandit_serve_connections", "Connections that are open.", total("connections")
        )
        ended = CounterMetricFamily(
            "bandit_serve_connections_ended",
            "Connections ended for want of room, because their head or TLS handshake was late, because they read no "
            "answer, or because their TLS handshake failed.",
            labels=["why"],
        )
        for why in ("crowded", "late", "unread", "handshake"):
            ended.add_metric([why], total(f"connections_{why}"))
        yield ended
        yield self._tls_expiry()
        spans = CounterMetricFamily(
            "bandit_serve_spans",
            "Spans that the collector took, and that were dropped as it did not or as too many waited.",
            labels=["result"],
        )
        for result in ("sent", "dropped"):
            spans.add_metric([result], total(f"spans_{result}"))
        yield spans
        buckets, seconds = self._counters.appends_total()
        appends = HistogramMetricFamily(
            "bandit_serve_append_seconds", "Appends to logs, from asking the store on."
        )
        appends.add_metric([], _cumulated(buckets), seconds)
        yield appends
        yield GaugeMetricFamily(
            "bandit_serve_tail_lag_seconds",
            "Time since a worker had applied all that the logs had: of all workers, the one that is farthest behind.",
            self._counters.farthest("tail_lag_s"),
        )
        yield GaugeMetricFamily(
            "bandit_serve_retention_seconds", "How far back logs reach by the settings.", self._retention_s
        )
        yield GaugeMetricFamily(
            "bandit_serve_clock_offset_seconds",
            "What a worker's clock is ahead of the store's: of all workers, the one that is farthest off.",
            self._counters.farthest("clock_offset_s"),
        )

    def _tls_expiry(self) -> Metric:
        expiry = GaugeMetricFamily(
            "bandit_serve_tls_expiry_timestamp_seconds",
            "When the certificate that callers are shown expires, in seconds since 1970: the first of all workers'.",
        )
        earliest_s = self._counters.earliest("tls_expiry_s")
        if earliest_s is not None:
            expiry.add_metric([], earliest_s)
        return expiry

    def _experiments(self) -> Iterable[Metric]:
        exposures = CounterMetricFamily(
            "bandit_serve_exposures", "Decisions in the log.", labels=["experiment", "arm"]
        )
        rewards = CounterMetricFamily(
            "bandit_serve_objective_rewards",
            "Rewards of the objective in the log.",
            labels=["experiment", "arm"],
        )
        far = CounterMetricFamily(
            "bandit_serve_context_far",
            "Decisions in the log with a value so far outside that a contextual policy did not take it as it was.",
            labels=["experiment", "field"],
        )
        share = GaugeMetricFamily(
            "bandit_serve_arm_share", "Current share of an arm.", labels=["experiment", "arm"]
        )
        alarms = CounterMetricFamily(
            "bandit_serve_alarms", "Changes of arms' means that were noticed.", labels=["experiment"]
        )
        pending = GaugeMetricFamily(
            "bandit_serve_pending", "Decisions whose reward may still come.", labels=["experiment"]
        )
        for name, live in counted(self._replica):
            shares = self._shares_of(name)
            for k, arm in enumerate(live.experiment.arm_names):
                exposures.add_metric([name, arm], float(live.exposures[k]))
                rewards.add_metric([name, arm], float(live.rewards[k]))
                if shares is not None and k < len(shares):
                    share.add_metric([name, arm], float(shares[k]))
            pending.add_metric([name], float(live.n_pending))
            for field, count in live.far.items():
                far.add_metric([name, field], float(count))
            if live.alarms is not None:
                alarms.add_metric([name], float(live.alarms.count))
        return (exposures, rewards, far, share, alarms, pending)

    def _of_measurements(self) -> Iterable[Metric]:
        """What the worker with the lease has measured; nothing before that, and while the store is away."""
        found, now_ms = self._measured(), self._now_ms()
        nbytes, oldest, uncovered = (
            GaugeMetricFamily(f"bandit_serve_{name}", about, labels=["experiment"])
            for name, about in (
                ("log_bytes", "Memory of an experiment's log in the store, estimated."),
                ("log_age_seconds", "Age of the oldest entry of a log."),
                ("snapshot_age_seconds", "Age of the oldest entry of a log that no snapshot has."),
            )
        )
        lag = GaugeMetricFamily(
            "bandit_serve_learner_lag",
            "Seconds of a log that the process which learns for a model has still to learn.",
            labels=["model"],
        )
        used = GaugeMetricFamily("bandit_serve_store_used_bytes", "Memory that the store uses.")
        most = GaugeMetricFamily(
            "bandit_serve_store_max_bytes", "Memory that the store may use; 0 for no bound."
        )
        if found is not None:
            used.add_metric([], float(found.used_bytes))
            most.add_metric([], float(found.max_bytes))
            for name, _ in counted(self._replica):
                measured = found.logs.get(name)
                if measured is not None:
                    nbytes.add_metric([name], float(measured.nbytes))
                    oldest.add_metric([name], _age_s(measured.oldest_ms, now_ms))
                    uncovered.add_metric([name], _age_s(measured.uncovered_ms, now_ms))
            for model, each in list(found.learners.items())[:MAX_EXPERIMENT_SERIES]:
                lag.add_metric([model], (each.behind_ms + max(now_ms - each.at_ms, 0)) / 1000)
        return (nbytes, oldest, uncovered, lag, used, most)

    def _set_aside(self) -> Metric:
        aside = GaugeMetricFamily(
            "bandit_serve_set_aside",
            "1 for each experiment that is set aside in the worker that answers.",
            labels=["experiment"],
        )
        for name, each in list(self._replica.aside.items())[:MAX_EXPERIMENT_SERIES]:
            if not each.given_up:
                aside.add_metric([name], 1.0)
        return aside


def _age_s(time_ms: int | None, now_ms: int) -> float:
    return 0.0 if time_ms is None else max(now_ms - time_ms, 0) / 1000


def _cumulated(buckets: Sequence[float]) -> list[tuple[str, float]]:
    bounds = (*map(repr, BUCKETS_S), "+Inf")
    return list(zip(bounds, itertools.accumulate(buckets), strict=True))


def counted(replica: Replica) -> Iterator[tuple[str, LiveExperiment]]:
    """Experiments that have series of their own, the oldest first.

    Together they have at most `MAX_EXPERIMENT_SERIES` arms and numeric fields; newer experiments are left out.
    """
    room = MAX_EXPERIMENT_SERIES
    # In a thread, beside which experiments may come.
    for name, live in list(replica.experiments.items()):
        room -= len(live.experiment.arms) + len(live.far)
        if room < 0:
            return
        yield name, live


def exposition(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
