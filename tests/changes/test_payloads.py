"""Payloads of arms: bounded, stored in the log once, and unchanged by any number of changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import experiment as made_of
from builders import record
from consistency_checks import assert_states_equal_replay, log
from http_calls import check_problem, decide, draft, experiment
from scale import scaled
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.experiments.checks import MAX_PAYLOAD_BYTES, require_payloads, with_arm
from bandit_serve.experiments.spec import Arm, Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold

LARGE = "x" * (2**16 - 2)
MAX_PAYLOADS = [LARGE] * (MAX_PAYLOAD_BYTES // 2**16)


def arms(*payloads: Any) -> list[dict[str, Any]]:
    return [{"name": f"a{i}", "payload": payload} for i, payload in enumerate(payloads)]


# What a change looks like in the log


CONTEXTS: list[list[dict[str, Any]]] = [[], [{"name": "hour", "kind": "numeric"}]]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("n_added", [0, 1, 3])
def test_what_the_record_before_had_is_left_out_and_filled_in(
    context: list[dict[str, Any]], n_added: int
) -> None:
    before = record(made_of(arms=arms({"deep": [1, None]}, LARGE), context=context))
    grown = before.experiment
    for i in range(n_added):
        grown = with_arm(grown, Arm(f"new{i}", payload=[i]))
    after = msgspec.structs.replace(before, experiment=grown, revision=2, status="paused")
    whole = Changed(after, Change("pause", "me"))
    data = events.encode(whole.without(before))
    assert len(data) < 1_500
    decoded = events.decode(events.CHANGED, data)
    assert isinstance(decoded, Changed)
    assert decoded.kept_arms == 2
    assert decoded.whole(before).record == after
    assert decoded.whole(after).record == after, "also for a fold that began with a later record"


def test_a_change_that_leaves_nothing_out_is_written_as_ever() -> None:
    about = record(made_of(arms=arms(1, 2)))
    whole = Changed(about, Change("create", "me"))
    assert whole.whole(None).record == whole.whole(about).record == about
    assert b"kept_arms" not in events.encode(whole)
    other = record(made_of(arms=arms(3, 4)))
    assert whole.without(other) == whole


def test_a_change_without_what_it_builds_on_is_refused() -> None:
    about = record(made_of(arms=arms(1, 2)))
    change = Changed(about, Change("pause", "me")).without(about)
    with pytest.raises(UnreadableEntry, match="does not hold"):
        LiveExperiment(change)
    one = record(msgspec.structs.replace(about.experiment, arms=about.experiment.arms[:1]))
    with pytest.raises(UnreadableEntry, match="does not hold"):
        change.whole(one)


def test_folds_of_short_and_of_whole_changes_are_equal() -> None:
    before = record(made_of(arms=arms("one", {"two": 2})))
    grown = with_arm(before.experiment, Arm("late", payload="three"))
    steps = [
        msgspec.structs.replace(before, revision=2, status="paused"),
        msgspec.structs.replace(before, revision=3, experiment=grown),
        msgspec.structs.replace(before, revision=4, experiment=grown, status="stopped"),
    ]
    states = []
    for short in (False, True):
        creation = Changed(before, Change("create", "me"))
        live, results, former = LiveExperiment(creation), ResultsFold(before), before
        live.apply(Offset(1, 0), creation)
        for at, step in enumerate(steps, 2):
            change = Changed(step, Change("x", "me"))
            event = events.decode(events.CHANGED, events.encode(change.without(former) if short else change))
            live.apply(Offset(at, 0), event)
            results.apply(Offset(at, 0), event)
            former = step
        assert live.record == results.record == steps[-1]
        states.append((live.state(), results.state()))
    assert states[0] == states[1]


# The bound


@pytest.mark.parametrize(
    ("payloads", "fault"),
    [
        (MAX_PAYLOADS, None),
        ([*MAX_PAYLOADS, None, None], None),
        ([*MAX_PAYLOADS, 1], len(MAX_PAYLOADS)),
        ([1, *MAX_PAYLOADS], len(MAX_PAYLOADS)),
        ([1, *MAX_PAYLOADS[1:], LARGE[1:]], None),
        (["ž" * (2**15 - 1)] * len(MAX_PAYLOADS), None),
        (["ž" * (2**15 - 1)] * len(MAX_PAYLOADS) + [0], len(MAX_PAYLOADS)),
    ],
)
def test_payloads_are_bounded_in_all(payloads: list[Any], fault: int | None) -> None:
    made: Experiment = made_of(arms=[*arms(*payloads), {"name": "z"}])
    if fault is None:
        require_payloads(made)
    else:
        with pytest.raises(InvalidInput, match="at most 1048576 bytes") as refused:
            require_payloads(made)
        assert [error.at for error in refused.value.errors] == [f"arms[{fault}].payload"]


def test_too_large_payloads_are_refused_over_http(service: ThrowawayService) -> None:
    body = experiment(arms=arms(*MAX_PAYLOADS, 1))
    check_problem(service.call("POST", "/v1/experiments", body), 400)
    name = draft(service, arms=arms(*MAX_PAYLOADS))
    check_problem(service.call("POST", f"/v1/experiments/{name}/arms", {"name": "c", "payload": 1}), 400)
    assert service.call("POST", f"/v1/experiments/{name}/arms", {"name": "c"}).status in (200, 201)


def test_changes_do_not_copy_payloads(tmp_path: Path) -> None:
    """Changes an experiment with the largest payloads many times; every worker has them whole, even a new one."""
    with ThrowawayStore(appendfsync="no") as store, store.client() as client:
        with ThrowawayService(tmp_path / "data", store=store.url, workers=2) as service:
            name = draft(service, arms=arms(*MAX_PAYLOADS))
            for _ in range(scaled(6, 30)):
                for move in ("start", "pause"):
                    assert service.call("POST", f"/v1/experiments/{name}/{move}").status == 200
            assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
            written = sum(len(entry.data) for entry in log(client, name))
            assert MAX_PAYLOAD_BYTES < written < 1.1 * MAX_PAYLOAD_BYTES
            assert_states_equal_replay(client, name, 2)
        with ThrowawayService(tmp_path / "data", store=store.url) as service:
            assert decide(service, name, eligible=["a7"])["payload"] == LARGE
            assert_states_equal_replay(client, name, 1)
