"""Counters that all workers share, and series that no request can multiply."""

from __future__ import annotations

import platform
import socket
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
from builders import created, experiment, exposed, rewards
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from bandit_serve import __version__
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.server import metrics as module
from bandit_serve.server.metrics import BUCKETS_S, SCALARS, Counters, ServiceCollector, exposition
from bandit_serve.server.process_usage import count_open_files, process_usage
from bandit_serve.server.routes import ROUTE_LABELS, UNMATCHED

ROUTES = ("GET /a", "POST /b")


@pytest.fixture
def workers() -> Iterator[list[Counters]]:
    """Four slots of one mapping, three of them in use."""
    with tempfile.TemporaryFile() as file:
        yield [Counters(ROUTES, n_slots=4, slot=slot, fd=file.fileno()) for slot in range(3)]


def shares_of(name: str) -> NDArray[np.float64] | None:
    """Shares that fall from arm to arm; none of the experiment that this worker does not decide for."""
    return None if name == "undecided" else np.array([0.5, 0.3, 0.2])


def scraped(
    counters: Counters, replica: Replica | None = None
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = exposition(ServiceCollector(counters, replica or Replica(), shares_of)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def test_any_worker_answers_for_all(workers: list[Counters]) -> None:
    for n, worker in enumerate(workers, 1):
        worker.add("decisions", n)
        worker.add("decisions")
        worker.set("store_away", float(n == 2))
        worker.request("POST /b", 200, 0.003)
    for worker in workers:
        samples = scraped(worker)
        assert samples["bandit_serve_decisions_total", labels()] == 9
        assert samples["bandit_serve_workers_without_store", labels()] == 1
        assert samples["bandit_serve_requests_total", labels(route="POST /b", outcome="2xx")] == 3
        assert samples["bandit_serve_requests_total", labels(route="GET /a", outcome="2xx")] == 0
        assert worker.total("decisions") == 9


def test_a_worker_that_takes_over_a_slot_goes_on_counting(workers: list[Counters]) -> None:
    workers[0].add("predictions", 5)
    workers[0].add("predictions", 2)
    assert workers[1].total("predictions") == 7
    assert workers[0].farthest("predictions") == 7


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "2xx"), (201, "2xx"), (304, "2xx"), (400, "4xx"), (499, "4xx"), (500, "5xx"), (503, "5xx")],
)
def test_requests_are_counted_by_outcome(workers: list[Counters], status: int, outcome: str) -> None:
    workers[0].request("GET /a", status, 0.001)
    samples = scraped(workers[0])
    for each in ("2xx", "4xx", "5xx"):
        assert samples["bandit_serve_requests_total", labels(route="GET /a", outcome=each)] == (
            each == outcome
        )


def test_latencies_are_a_cumulative_histogram(workers: list[Counters]) -> None:
    seconds = [0.00005, *BUCKETS_S, 99.0]
    for each in seconds:
        workers[0].request("GET /a", 200, each)
    samples = scraped(workers[0])
    name = "bandit_serve_request_seconds"
    for bound in BUCKETS_S:
        expected = sum(each <= bound for each in seconds)
        assert samples[f"{name}_bucket", labels(route="GET /a", le=repr(bound))] == expected
    assert samples[f"{name}_bucket", labels(route="GET /a", le="+Inf")] == len(seconds)
    assert samples[f"{name}_count", labels(route="GET /a")] == len(seconds)
    assert samples[f"{name}_sum", labels(route="GET /a")] == pytest.approx(sum(seconds))


def test_every_scalar_is_told(workers: list[Counters]) -> None:
    before = scraped(workers[0])
    for scalar in SCALARS:
        workers[0].add(scalar, 3)
        after = scraped(workers[0])
        assert [name for name, value in after.items() if value != before.get(name)] != [], scalar
        before = after


def live(name: str, n_arms: int) -> LiveExperiment:
    first = created(experiment(id=name, arms=[{"name": f"a{k}"} for k in range(n_arms)]))
    made = LiveExperiment(first)
    made.apply(Offset(1, 0), first)
    return made


def test_experiments_are_told_by_arm() -> None:
    replica = Replica()
    replica.experiments["e"] = made = live("e", 2)
    made.apply(Offset(2, 0), exposed(0, [0, 1, 1], [1, 1, 1]))
    made.apply(Offset(3, 0), Rewarded(rewards([2], arms=1)))
    samples = scraped(Counters(ROUTES), replica)
    assert samples["bandit_serve_exposures_total", labels(experiment="e", arm="a0")] == 1
    assert samples["bandit_serve_exposures_total", labels(experiment="e", arm="a1")] == 2
    assert samples["bandit_serve_objective_rewards_total", labels(experiment="e", arm="a1")] == 1


def test_the_series_of_experiments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EXPERIMENT_SERIES", 50)
    replica = Replica()
    for i in range(20):
        replica.experiments[f"e{i}"] = live(f"e{i}", 10)
    samples = scraped(Counters(ROUTES), replica)
    logged = [sample for sample in samples if sample[0] == "bandit_serve_exposures_total"]
    assert len(logged) == 50
    assert ("bandit_serve_exposures_total", labels(experiment="e0", arm="a0")) in logged


def test_what_requests_say_makes_no_series() -> None:
    counters = Counters(ROUTE_LABELS)
    before = set(scraped(counters))
    for label in ROUTE_LABELS:
        counters.request(label, 200, 0.1)
    assert set(scraped(counters)) == before
    assert UNMATCHED in ROUTE_LABELS
    with pytest.raises(KeyError):
        counters.request("GET /made-up", 200, 0.1)


def test_processes_are_summed_over_workers(workers: list[Counters]) -> None:
    for n, worker in enumerate(workers, 1):
        worker.add("cpu_s", 0.5)
        worker.add("cpu_s", n)
        worker.set("resident_bytes", 1000.0 * n)
        worker.set("open_files", 10.0)
    samples = scraped(workers[0])
    assert samples["process_cpu_seconds_total", labels()] == 7.5
    assert samples["process_resident_memory_bytes", labels()] == 6000
    assert samples["process_open_fds", labels()] == 30
    versions = [dict(found) for name, found in samples if name == "bandit_serve_build_info"]
    assert versions == [{"version": __version__, "python": platform.python_version()}]


def test_an_experiment_has_its_shares_and_alarms(workers: list[Counters]) -> None:
    replica = Replica()
    for name in ("decided", "undecided"):
        live = LiveExperiment(created(experiment(id=name)))
        replica.experiments[name] = live
        assert live.alarms is not None
        live.alarms.count = 3
    samples = scraped(workers[0], replica)
    arms = live.experiment.arm_names
    for arm, share in zip(arms, (0.5, 0.3, 0.2), strict=False):
        assert samples["bandit_serve_arm_share", labels(experiment="decided", arm=arm)] == share
        assert ("bandit_serve_arm_share", labels(experiment="undecided", arm=arm)) not in samples
    assert samples["bandit_serve_alarms_total", labels(experiment="decided")] == 3


def test_a_process_says_what_it_uses() -> None:
    before, n_files = process_usage(), count_open_files()
    held, kept = [socket.socket() for _ in range(5)], bytearray(b"x") * (32 * 2**20)
    busy = sum(i * i for i in range(300_000))
    after = process_usage()
    assert (len(kept), busy > 0) == (32 * 2**20, True)
    assert after.cpu_s > before.cpu_s
    assert after.resident_bytes - before.resident_bytes > 20 * 2**20
    assert count_open_files() == n_files + 5
    for each in held:
        each.close()
