"""Counters in memory that all workers share, and their reading by Prometheus.

Each worker counts in a slot of its own, without locks; any worker answers a scrape for all. The set of series is
fixed by the routes and by the experiments that exist, never by what a request says.
"""

from __future__ import annotations

import mmap
import os
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bandit_serve import __version__
from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica

VERDICTS: tuple[str, ...] = get_args(RewardVerdict)
OUTCOMES = ("2xx", "4xx", "5xx")
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
AUTOMATIC = ("start", "stop", "pause_arm")
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
    "connections",
    "connections_crowded",
    "connections_late",
    "connections_unread",
    "clock_offset_s",
    "cpu_s",
    "resident_bytes",
    "open_files",
)
MAX_EXPERIMENT_SERIES = 5_000
_PER_ROUTE = len(OUTCOMES) + len(BUCKETS_S) + 2


class Counters:
    """Counters as float64, `n_slots` rows: in the shared file `fd`, which is made large enough, or in memory without
    one.

    This worker writes row `slot`.
    """

    def __init__(self, routes: Sequence[str], *, n_slots: int = 1, slot: int = 0, fd: int = -1) -> None:
        self.routes = tuple(routes)
        self._width = len(SCALARS) + len(self.routes) * _PER_ROUTE
        self._n_slots = n_slots
        size = 8 * n_slots * self._width
        if fd >= 0:
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        self._all = memoryview(self._map).cast("d")
        self._mine = self._all[slot * self._width : (slot + 1) * self._width]
        self._scalars = {name: i for i, name in enumerate(SCALARS)}
        self._starts = {route: len(SCALARS) + i * _PER_ROUTE for i, route in enumerate(self.routes)}

    def add(self, scalar: str, amount: float = 1.0) -> None:
        self._mine[self._scalars[scalar]] += amount

    def set(self, scalar: str, value: float) -> None:
        self._mine[self._scalars[scalar]] = value

    def request(self, route: str, status: int, seconds: float) -> None:
        mine, start = self._mine, self._starts[route]
        mine[start + (0 if status < 400 else 1 if status < 500 else 2)] += 1.0
        mine[start + 3 + bisect_left(BUCKETS_S, seconds)] += 1.0
        mine[start + _PER_ROUTE - 1] += seconds

    def total(self, scalar: str) -> float:
        return self._sum(self._scalars[scalar])

    def farthest(self, scalar: str) -> float:
        """Value that is farthest from 0 among those of all workers."""
        place = self._scalars[scalar]
        return max((self._all[slot * self._width + place] for slot in range(self._n_slots)), key=abs)

    def _sum(self, place: int) -> float:
        return sum(self._all[slot * self._width + place] for slot in range(self._n_slots))

    def routes_total(self) -> Iterator[tuple[str, list[float], list[float], float]]:
        """Sums over workers for each route: requests by outcome, by latency bucket (not cumulated), and seconds."""
        for route, start in self._starts.items():
            sums = [self._sum(start + i) for i in range(_PER_ROUTE)]
            yield route, sums[:3], sums[3:-1], sums[-1]


SharesOf = Callable[[str], NDArray[np.float64] | None]
"""Current shares of an experiment's arms, in their order; None where this worker has none."""


class ServiceCollector(Collector):
    """Collector for a scrape: counters of all workers, and figures of each experiment from its log."""

    def __init__(self, counters: Counters, replica: Replica, shares_of: SharesOf) -> None:
        self._counters = counters
        self._replica = replica
        self._shares_of = shares_of

    def collect(self) -> Iterable[Metric]:
        yield from self._requests()
        yield from self._totals()
        yield from self._processes()
        yield from self._experiments()
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
            cumulated, running = [], 0.0
            for bound, count in zip((*BUCKETS_S, float("inf")), buckets, strict=True):
                running += count
                cumulated.append(("+Inf" if bound == float("inf") else repr(bound), running))
            latency.add_metric([route], cumulated, seconds)
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
        yield GaugeMetricFamily(
            "bandit_serve_connections", "Connections that are open.", total("connections")
        )
        ended = CounterMetricFamily(
            "bandit_serve_connections_ended",
            "Connections ended for want of room, because their head was late, or because they read no answer.",
            labels=["why"],
        )
        for why in ("crowded", "late", "unread"):
            ended.add_metric([why], total(f"connections_{why}"))
        yield ended
        yield GaugeMetricFamily(
            "bandit_serve_clock_offset_seconds",
            "What a worker's clock is ahead of the store's: of all workers, the one that is farthest off.",
            self._counters.farthest("clock_offset_s"),
        )

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
        for name, live in counted(self._replica):
            shares = self._shares_of(name)
            for k, arm in enumerate(live.experiment.arm_names):
                exposures.add_metric([name, arm], float(live.exposures[k]))
                rewards.add_metric([name, arm], float(live.rewards[k]))
                if shares is not None and k < len(shares):
                    share.add_metric([name, arm], float(shares[k]))
            for field, count in live.far.items():
                far.add_metric([name, field], float(count))
            if live.alarms is not None:
                alarms.add_metric([name], float(live.alarms.count))
        return (exposures, rewards, far, share, alarms)

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


def exposition(collector: ServiceCollector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
