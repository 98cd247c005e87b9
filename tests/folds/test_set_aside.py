"""Experiments that are set aside: one bad log affects no other experiment, in running and in starting workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_entries import BAD_ENTRIES, BadEntry, later_change
from builders import created, experiment, rewards
from consistency_checks import KEYS, make_experiment, wait_until_all_serve
from services import Answer, ThrowawayService
from stores import ThrowawayStore, gone, wait_until

from bandit_serve.decisions.control_decider import ControlDecider
from bandit_serve.errors import StoreUnavailable
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset
from bandit_serve.log.repairs import Repaired
from bandit_serve.registry.registry import ANNOUNCED, REPAIRED, ExperimentAnnounced
from bandit_serve.store.keys import COMMON

WORKERS = 2


def replica_of(*names: str) -> Replica:
    replica = Replica()
    for i, name in enumerate(names):
        announced = events.encode(ExperimentAnnounced(name))
        replica.apply(COMMON, Entry(Offset(1, i), ANNOUNCED, announced))
        creation = events.encode(created(experiment(id=name), uid=i + 1))
        replica.apply(name, Entry(Offset(2, 0), events.CHANGED, creation))
    return replica


def reward(counter: int, offset: Offset) -> Entry:
    return Entry(offset, events.REWARDED, rewards([counter]).tobytes())


@pytest.mark.parametrize("bad_entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_a_poisoned_log_is_set_aside_and_the_others_go_on(bad_entry: BadEntry) -> None:
    replica = replica_of("sick", "well")
    calls: list[str] = []
    replica.on_set_aside(lambda owner, error: calls.append(owner))
    replica.apply("sick", Entry(Offset(3, 0), *bad_entry))
    replica.apply("sick", reward(1, Offset(4, 0)))
    replica.apply("well", reward(1, Offset(4, 0)))
    assert list(replica.experiments) == ["well"]
    assert replica.experiments["well"].rewards.tolist() == [1, 0]
    assert set(replica.by_uid) == {2}
    aside = replica.aside["sick"]
    assert (aside.offset, aside.since_ms) == (Offset(3, 0), 3)
    assert aside.reason
    assert aside.record is not None
    assert aside.record.experiment.id == "sick"
    assert replica.positions["sick"] == Offset(4, 0)
    assert calls == ["sick"]


@pytest.mark.parametrize("is_sick", [True, False])
def test_one_that_is_given_up_is_so_when_the_event_is_applied(is_sick: bool) -> None:
    replica = replica_of("e", "well")
    if is_sick:
        replica.apply("e", Entry(Offset(3, 0), *BAD_ENTRIES["an unknown kind"]))
    stop = events.encode(Repaired("e", "stop", "cli:ann"))
    replica.apply(COMMON, Entry(Offset(4, 0), REPAIRED, stop))
    aside = replica.aside["e"]
    assert (aside.given_up, aside.since_ms) == (True, 4)
    assert aside.record is not None
    # What the log says of it is read later; where that is nothing, what was known stays.
    replica.give_up("e", None)
    assert replica.aside["e"].record is aside.record
    assert list(replica.experiments) == ["well"]


def test_what_a_listener_can_not_bear_sets_aside_its_experiment_alone() -> None:
    replica = replica_of("sick", "well")

    def refuses(owner: str) -> None:
        if owner == "sick":
            raise RuntimeError("not\nthis\x1b one")

    replica.on_change(refuses)
    replica.apply("sick", reward(1, Offset(3, 0)))
    replica.apply("well", reward(1, Offset(3, 0)))
    assert list(replica.experiments) == ["well"]
    assert "\n" not in replica.aside["sick"].reason


def test_a_store_that_is_away_is_nobodys_fault() -> None:
    replica = replica_of("e")
    with pytest.raises(StoreUnavailable), replica.island("e"):
        raise StoreUnavailable("away")
    assert not replica.aside


def test_an_entry_of_the_common_log_that_is_not_known_stops_no_experiment() -> None:
    replica = replica_of("e")
    replica.apply(COMMON, Entry(Offset(2, 0), b"z", b"later"))
    replica.apply(COMMON, Entry(Offset(3, 0), ANNOUNCED, events.encode(ExperimentAnnounced("f"))))
    replica.apply("e", reward(1, Offset(3, 0)))
    assert list(replica.registry.experiments) == ["e", "f"]
    assert replica.experiments["e"].rewards.tolist() == [1, 0]
    assert replica.aside[COMMON].offset == Offset(2, 0)


def test_control_is_what_everyone_gets() -> None:
    made = created(experiment(control="b"), status="running").record
    control = ControlDecider(made)
    choice = control.choose("u", ["a"])
    assert (choice.arm, choice.propensity, choice.draw) == (1, 1.0, None)
    assert control.shares.tolist() == [0.0, 1.0]


def test_a_record_of_a_later_build_is_read_as_far_as_it_is_known() -> None:
    entry = Entry(Offset(1, 0), events.CHANGED, events.encode(created(experiment())))
    replica = replica_of("e")
    replica.apply("e", Entry(Offset(3, 0), events.CHANGED, later_change(entry)))
    assert "forecast" in replica.aside["e"].reason


# As services


@pytest.fixture
def served(store: ThrowawayStore, tmp_path: Path) -> Iterator[ThrowawayService]:
    flags = ("--snapshot-every", "1s")
    with ThrowawayService(tmp_path, *flags, store=store.url, workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        yield service


def decide(service: ThrowawayService, name: str) -> Answer:
    return service.call("POST", f"/v1/experiments/{name}/decide", {})


def give(service: ThrowawayService, decision_id: str) -> Answer:
    return service.call("POST", "/v1/rewards", {"decision_id": decision_id, "value": 1})


def append_bad_entry(store: ThrowawayStore, name: str, entry: BadEntry) -> str:
    with store.client() as client:
        at: Any = client.xadd(KEYS.log(name), {entry.kind: entry.data})
    return Offset.parse(at).__str__()


def is_set_aside(service: ThrowawayService, name: str) -> bool:
    """Whether three answers in a row say so, and not only one worker's."""
    return all(
        name
        in {each.get("experiment") for each in service.call("GET", "/health/ready").body.get("reasons", ())}
        for _ in range(3)
    )


def assert_set_aside(service: ThrowawayService, name: str, offset: str, decision_id: str) -> None:
    health = service.call("GET", "/health/ready")
    assert (health.status, health.body["status"]) == (200, "degraded")
    (why,) = [each for each in health.body["reasons"] if each.get("experiment") == name]
    assert why["what"] == "set_aside"
    assert offset in why["detail"]
    for _ in range(4):
        decided = decide(service, name)
        assert decided.status == 200
        assert decided.body["decision_id"] is None
        assert (decided.body["arm"], decided.body["propensity"]) == ("control", 1.0)
    refused = give(service, decision_id)
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    shown = service.call("GET", f"/v1/experiments/{name}")
    assert shown.status == 200
    assert shown.body["set_aside"]["offset"] == offset
    assert name in service.call("GET", "/v1/stats").body["set_aside"]
    metrics = service.call("GET", "/metrics").body.decode()
    assert f'bandit_serve_set_aside{{experiment="{name}"}} 1.0' in metrics
    for path in ("results", "history"):
        assert service.call("GET", f"/v1/experiments/{name}/{path}").status == 503
    assert service.call("POST", f"/v1/experiments/{name}/pause").status == 503


def test_a_service_goes_on_without_the_experiment_that_is_poisoned(
    served: ThrowawayService, store: ThrowawayStore
) -> None:
    tokens: dict[str, str] = {}
    for name in ("sick", "well"):
        make_experiment(served, name)
        tokens[name] = decide(served, name).body["decision_id"]
    pids = served.worker_pids()
    offset = append_bad_entry(store, "sick", BAD_ENTRIES["columns of unequal length"])
    wait_until(lambda: sum("degraded (set_aside): sick:" in line for line in served.output) == WORKERS)
    assert served.worker_pids() == pids
    assert_set_aside(served, "sick", offset, tokens["sick"])
    assert sum("degraded (set_aside): sick:" in line for line in served.output) == WORKERS
    both = [{"decision_id": tokens[name], "value": 1} for name in ("sick", "well")]
    assert served.call("POST", "/v1/rewards", {"rewards": both}).status == 503
    assert give(served, tokens["well"]).body["verdicts"] == ["duplicate"], "the others' rewards were counted"
    assert decide(served, "well").body["decision_id"]

    for victim in served.worker_pids():
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: gone(victim))
    wait_until_all_serve(served, WORKERS)
    assert_set_aside(served, "sick", offset, tokens["sick"])
    assert give(served, decide(served, "well").body["decision_id"]).body["accepted"] == 1


def test_a_snapshot_that_can_not_be_read_is_passed_over_where_the_log_is_there(
    served: ThrowawayService, store: ThrowawayStore
) -> None:
    make_experiment(served, "e")
    for _ in range(5):
        assert give(served, decide(served, "e").body["decision_id"]).status == 200
    with store.client() as client:
        wait_until(lambda: client.hlen(KEYS.snapshots("e", "policy")) > 0)
        newest = max(map(Offset.parse, client.hkeys(KEYS.snapshots("e", "policy"))))
        client.hset(KEYS.snapshots("e", "policy"), str(newest), b"\x93damaged")
    for victim in served.worker_pids():
        os.kill(victim, signal.SIGKILL)
    wait_until_all_serve(served, WORKERS)
    body = served.call("GET", "/v1/stats").body
    assert body["set_aside"] == {}
    assert sum(body["experiments"]["e"]["rewards"].values()) == 5


def test_an_experiment_of_which_nothing_is_left_to_read_answers_503(
    served: ThrowawayService, store: ThrowawayStore
) -> None:
    """Its arms are unknown, so there is no control to return."""
    make_experiment(served, "e")
    token = decide(served, "e").body["decision_id"]
    assert served.stop() == 0
    with store.client() as client:
        client.delete(KEYS.log("e"), KEYS.snapshots("e", "policy"))
        client.xadd(KEYS.log("e"), {events.CHANGED: b"\xc1"})
    served.start()
    wait_until_all_serve(served, WORKERS)
    assert decide(served, "e").status == 503
    assert give(served, token).status == 503, "not 404: whoever gives up then loses a reward"
    make_experiment(served, "f")
    assert give(served, decide(served, "f").body["decision_id"]).status == 200


@pytest.mark.parametrize("garbage", [b"\xa1\xff", b"\x91" * 2_000, b""], ids=["no text", "deep", "nothing"])
def test_workers_start_whatever_a_change_is_made_of(
    served: ThrowawayService, store: ThrowawayStore, garbage: bytes
) -> None:
    make_experiment(served, "e")
    offset = append_bad_entry(store, "e", BadEntry(events.CHANGED, garbage))
    wait_until(lambda: is_set_aside(served, "e"))
    for victim in served.worker_pids():
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: gone(victim))
    wait_until_all_serve(served, WORKERS)
    decided = decide(served, "e")
    assert (decided.status, decided.body["arm"]) == (200, "control")
    assert served.call("GET", "/v1/experiments/e").body["set_aside"]["offset"] == offset


def test_states_before_repairs_existed_can_be_read() -> None:
    live = LiveExperiment(created(experiment()))
    live.omitted = 0
    assert LiveExperiment.from_state(live.offset, live.state()).omitted == 0
