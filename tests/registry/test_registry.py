"""Registry: the whole state machine, one version in production, and rollback."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import msgspec
import pytest

from bandit_serve.errors import Conflict, NotFound
from bandit_serve.log import events
from bandit_serve.log.offset import START, Offset
from bandit_serve.models.onnx.signature import Signature, TensorSpec
from bandit_serve.registry.registry import (
    ANNOUNCED,
    MAX_HISTORY,
    MODEL,
    MOVES,
    SERVABLE,
    ExperimentAnnounced,
    ModelChanged,
    Registry,
    Version,
    VersionStatus,
    decode_registry_event,
)

STATUSES: tuple[VersionStatus, ...] = get_args(VersionStatus)
WHEN: dict[str, Any] = {"now_ms": 50, "who": "test"}

# From each status by legal moves, without coming by production on the way.
ROUTES: dict[VersionStatus, tuple[VersionStatus, ...]] = {
    "training": (),
    "staged": ("staged",),
    "shadow": ("staged", "shadow"),
    "production": ("staged", "production"),
    "retired": ("staged", "retired"),
    "failed": ("failed",),
}

# What the contract's machine allows, written out by hand.
LEGAL = {
    ("training", "staged"),
    ("training", "failed"),
    ("staged", "shadow"),
    ("staged", "production"),
    ("staged", "retired"),
    ("staged", "failed"),
    ("shadow", "staged"),
    ("shadow", "production"),
    ("shadow", "retired"),
    ("shadow", "failed"),
    ("production", "retired"),
    ("production", "failed"),
    ("retired", "staged"),
}


class Log:
    """Registry, and its events after encoding and decoding."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.entries: list[tuple[Offset, bytes, bytes]] = []

    def take(self, event: ModelChanged | ExperimentAnnounced) -> None:
        kind = MODEL if isinstance(event, ModelChanged) else ANNOUNCED
        entry = (Offset(100 + len(self.entries), 0), kind, events.encode(event))
        self.entries.append(entry)
        self.registry.apply(entry[0], decode_registry_event(kind, entry[2]))

    def register(self, version: str, status: VersionStatus = "training", model: str = "m") -> None:
        self.take(self.registry.register(made(version, status, model), "test"))

    def move(self, version: str, *statuses: VersionStatus) -> None:
        for status in statuses:
            self.take(self.registry.move("m", version, status, **WHEN))

    def in_production(self, *versions: str) -> None:
        for version in versions:
            self.register(version, "staged")
            self.move(version, "production")

    def status(self, version: str) -> VersionStatus:
        return self.registry.version("m", version).status


def made(version: str, status: VersionStatus = "training", model: str = "m") -> Version:
    return Version(model, version, status, "0" * 64, 10, "popularity", created_ms=1, updated_ms=1)


@pytest.mark.parametrize(("before", "after"), [*itertools.product(STATUSES, STATUSES)])
def test_every_move_is_legal_or_refused(before: VersionStatus, after: VersionStatus) -> None:
    log = Log()
    log.register("v1")
    log.move("v1", *ROUTES[before])
    assert log.status("v1") == before
    if (before, after) in LEGAL:
        log.move("v1", after)
        assert log.status("v1") == after
        assert log.registry.models["m"].production == ("v1" if after == "production" else None)
    else:
        with pytest.raises(Conflict, match=before):
            log.registry.move("m", "v1", after, **WHEN)
        assert log.status("v1") == before


def test_the_table_is_the_contracts() -> None:
    assert {(before, after) for before, afters in MOVES.items() for after in afters} == LEGAL
    assert set(MOVES) == set(STATUSES)


def test_promotion_retires_the_predecessor_in_the_same_event() -> None:
    log = Log()
    log.in_production("v1")
    log.register("v2", "staged")
    n = len(log.entries)
    log.move("v2", "production")
    assert len(log.entries) == n + 1
    assert (log.status("v1"), log.status("v2")) == ("retired", "production")
    assert log.registry.production("m").version == "v2"


def test_there_is_never_more_than_one_version_in_production() -> None:
    log = Log()
    log.in_production("v1", "v2", "v3")
    log.move("v1", "staged", "shadow", "production")
    log.move("v1", "failed")
    log.take(log.registry.rollback("m", **WHEN))
    registry = Registry()
    for offset, kind, data in log.entries:
        registry.apply(offset, decode_registry_event(kind, data))
        model = registry.models["m"]
        serving = [version.version for version in model.versions.values() if version.status == "production"]
        assert serving == ([] if model.production is None else [model.production])


def test_rollback_goes_back_one_by_one() -> None:
    log = Log()
    log.in_production("v1", "v2", "v3")
    for expected in ("v2", "v1"):
        log.take(log.registry.rollback("m", **WHEN))
        assert log.registry.production("m").version == expected
    assert log.status("v3") == log.status("v2") == "retired"
    with pytest.raises(Conflict, match="roll back"):
        log.registry.rollback("m", **WHEN)


def test_rollback_passes_over_what_failed_and_comes_back_from_nothing() -> None:
    log = Log()
    log.in_production("v1", "v2", "v3")
    log.move("v3", "failed")
    with pytest.raises(Conflict, match="production"):
        log.registry.production("m")
    log.take(log.registry.rollback("m", **WHEN))
    assert log.registry.production("m").version == "v2"
    log.move("v2", "retired")
    log.take(log.registry.rollback("m", **WHEN))
    assert log.registry.production("m").version == "v2", "the one that was in production last"


def test_versions_are_registered_once_and_at_the_start() -> None:
    log = Log()
    log.register("v1", "staged")
    with pytest.raises(Conflict, match="already"):
        log.register("v1")
    for status in set(STATUSES) - {"training", "staged"}:
        with pytest.raises(Conflict, match=status):
            log.registry.register(made("v9", status), "test")
    assert log.registry.next_version("m") == "v2"
    log.register("v3")
    assert log.registry.next_version("m") == "v4"
    assert log.registry.next_version("unheard-of") == "v1"


def test_what_is_not_there_is_not_found() -> None:
    log = Log()
    log.register("v1")
    for call in (
        lambda: log.registry.model("x"),
        lambda: log.registry.version("x", "v1"),
        lambda: log.registry.version("m", "v2"),
        lambda: log.registry.production("x"),
        lambda: log.registry.move("m", "v2", "staged", **WHEN),
        lambda: log.registry.rollback("x", **WHEN),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_won_experiment_promotes_once() -> None:
    log = Log()
    log.in_production("v1")
    log.register("v2", "staged")
    promote = {"reason": "won e", "because": "e:1:2", **WHEN}
    assert not log.registry.is_done("e:1:2")
    log.take(log.registry.promote("m", "v2", **promote))
    assert log.registry.is_done("e:1:2")
    assert (log.status("v1"), log.status("v2")) == ("retired", "production")
    history = len(log.registry.models["m"].history)
    log.take(log.registry.promote("m", "v2", **{**promote, "because": "e:1:3"}))
    assert log.registry.is_done("e:1:3")
    assert len(log.registry.models["m"].history) == history, "nothing but a note"


@pytest.mark.parametrize("status", sorted(set(STATUSES) - set(SERVABLE)))
def test_a_winner_that_can_not_serve_is_not_promoted(status: VersionStatus) -> None:
    log = Log()
    log.in_production("v1")
    log.register("v2")
    log.move("v2", *ROUTES[status])
    log.take(log.registry.promote("m", "v2", reason=None, because="e:1:2", **WHEN))
    assert log.registry.is_done("e:1:2")
    assert log.registry.production("m").version == "v1"
    assert log.status("v2") == status


def test_metrics_and_metadata_are_added_to() -> None:
    log = Log()
    log.register("v1")
    log.take(log.registry.patch("m", "v1", metrics={"rmse": 0.9}, metadata={"a": 1}, **WHEN))
    log.take(log.registry.patch("m", "v1", metrics={"rmse": 0.8, "mae": 0.5}, metadata={"b": [2]}, **WHEN))
    version = log.registry.version("m", "v1")
    assert version.metrics == {"rmse": 0.8, "mae": 0.5}
    assert version.metadata == {"a": 1, "b": [2]}
    assert version.status == "training"
    assert version.updated_ms == 50


def test_the_state_is_a_fold_of_the_log_from_any_snapshot_on() -> None:
    log = Log()
    log.take(ExperimentAnnounced("e1"))
    log.in_production("v1", "v2", "v3")
    log.take(ExperimentAnnounced("e2"))
    log.register("w1", model="other")
    log.take(log.registry.rollback("m", reason="slow", **WHEN))
    log.take(log.registry.promote("m", "v1", reason=None, because="e:1:2", **WHEN))
    log.move("v3", "staged")
    state = log.registry.state()
    for cut in range(len(log.entries) + 1):
        registry = Registry()
        for offset, kind, data in log.entries[:cut]:
            registry.apply(offset, decode_registry_event(kind, data))
        registry = Registry.from_state(registry.offset, registry.state())
        for offset, kind, data in log.entries[cut:]:
            registry.apply(offset, decode_registry_event(kind, data))
        assert registry.state() == state
        assert registry.offset == log.registry.offset
        assert registry.is_done("e:1:2")
        assert list(registry.experiments) == ["e1", "e2"]
    assert Registry().offset == START


def test_the_revision_counts_changes_and_not_announcements() -> None:
    log = Log()
    log.take(ExperimentAnnounced("e1"))
    assert log.registry.revision == 0
    log.register("v1")
    log.move("v1", "staged")
    assert log.registry.revision == 2


def test_history_says_who_and_when_and_is_bounded() -> None:
    log = Log()
    log.in_production("v1", "v2")
    last = log.registry.models["m"].history[-2:]
    assert [(entry.version, entry.status, entry.what, entry.who) for entry in last] == [
        ("v1", "retired", "promote", "test"),
        ("v2", "production", "promote", "test"),
    ]
    assert last[0].at_ms == log.registry.offset.time_ms
    model = log.registry.models["m"]
    model.history.extend(model.history[:1] * MAX_HISTORY)
    log.move("v2", "retired")
    assert len(model.history) == MAX_HISTORY


def test_events_of_unknown_kinds_are_an_error() -> None:
    with pytest.raises(ValueError, match="kind"):
        decode_registry_event(b"?", b"")


def test_a_version_without_a_signature_is_written_as_builds_without_graphs_wrote_it() -> None:
    plain = Version("m", "v1", "staged", "0" * 64, 1, "popularity", 1, 1)
    assert b"signature" not in msgspec.msgpack.encode(plain)
    tensor = TensorSpec("x", "float32", (1,))
    graph = msgspec.structs.replace(plain, family="onnx", signature=Signature((tensor,), (tensor,), ("x",)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(graph), type=Version) == graph
