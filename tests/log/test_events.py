"""Events of the log: encoding and decoding give the same event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, revisions, rewards

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.spec import Record
from bandit_serve.log import events
from bandit_serve.log.events import (
    REVISION,
    REWARD,
    Census,
    Change,
    Changed,
    Covariates,
    Exposed,
    Pair,
    Revised,
    Rewarded,
    Tick,
)


def test_a_change_comes_off_the_wire_as_it_went() -> None:
    made = experiment(
        arms=[
            {"name": "a", "payload": {"deep": [1, 2.5, None, True, "ž", {"n": 2**63}]}},
            {"name": "b", "model": "m", "version": "v1"},
        ],
        metrics=[{"name": "m", "kind": "bounded", "low": -1.0, "high": 2.0, "goal": "minimize"}],
        policy={"kind": "thompson", "prior": {"alpha": 2.0}, "min_share": 0.1, "refresh": "1s"},
    )
    record = Record(made, 2**63, "stopped", 9, 1, 2, started_ms=3, stopped_ms=4, winner="a")
    event = Changed(record, Change("stop", "http:127.0.0.1", "enough"))
    data = events.encode(event)
    assert events.decode(events.CHANGED, data) == event
    assert events.encode(events.decode(events.CHANGED, data)) == data, "one spelling, so snapshots are equal"


def test_exposures_come_off_the_wire_as_they_went() -> None:
    event = exposed(2**40, [0, 1, 1], [5, 6, 900], incarnation=2**64 - 1)
    decoded = events.decode(events.EXPOSED, events.encode(event))
    assert decoded == event
    assert isinstance(decoded, Exposed)
    assert np.frombuffer(decoded.arms, np.uint16).tolist() == [0, 1, 1]
    assert np.frombuffer(decoded.ages_ms, np.uint32).tolist() == [0, 1, 895]
    assert np.frombuffer(decoded.vectors).tolist() == [0.5, 0.5]


def test_rewards_are_rows_of_a_fixed_layout() -> None:
    assert REWARD.itemsize == 56
    assert REWARD.fields is not None
    layout = {name: (field[0].str, field[1]) for name, field in REWARD.fields.items()}
    assert layout == {
        "incarnation": ("<u8", 0),
        "counter": ("<u8", 8),
        "time_ms": ("<i8", 16),
        "value": ("<f8", 24),
        "propensity": ("<f8", 32),
        "unit": ("<u8", 40),
        "revision": ("<u4", 48),
        "arm": ("<u2", 52),
        "metric": ("|u1", 54),
        "flags": ("|u1", 55),
    }


def test_rewards_come_off_the_wire_as_they_went() -> None:
    rows = rewards([1, 2**47], values=[0.1, -1e80], times_ms=[3, 4], arms=[0, 999], metric=31)
    decoded = events.decode(events.REWARDED, rows.tobytes())
    assert isinstance(decoded, Rewarded)
    assert decoded.rows.tobytes() == rows.tobytes()
    assert decoded.rows["arm"].tolist() == [0, 999]


def test_features_come_off_the_wire_as_they_went() -> None:
    rows = rewards([1, 2**47], values=[0.1, -1e80], times_ms=[3, 4], arms=[0, 999], metric=31)
    x = np.array([[1, 2, 3], [4, 5, 6.5]], np.float32)
    data = events.pack_rewards(rows, x)
    decoded = events.decode(events.REWARDED, data, 3)
    assert isinstance(decoded, Rewarded)
    assert decoded.rows.tobytes() == rows.tobytes()
    assert decoded.x is not None
    assert decoded.x.tobytes() == x.tobytes()
    width = len(data) // 2
    second = events.decode(events.REWARDED, data[width:], 3)
    assert isinstance(second, Rewarded)
    assert second.rows.tobytes() == rows[1:].tobytes(), "the append script drops rows by their width"


def test_a_revision_is_a_reward_with_what_was_before() -> None:
    assert REVISION.itemsize == 72
    assert REVISION.fields is not None
    assert REWARD.fields is not None
    assert {name: REVISION.fields[name] for name in REWARD.names or ()} == dict(REWARD.fields)
    assert [(REVISION.fields[name][0].str, REVISION.fields[name][1]) for name in ("former", "since_ms")] == [
        ("<f8", 56),
        ("<i8", 64),
    ]


def test_revisions_come_off_the_wire_as_they_went() -> None:
    rows = revisions([1, 2**41], [np.nan, 3.5], [0.1, np.nan], [events.FIRST, 17], times_ms=[3, 4], metric=31)
    plain = events.decode(events.REVISED, rows.tobytes())
    assert isinstance(plain, Revised)
    assert plain.rows.tobytes() == rows.tobytes()
    assert plain.x is None
    x = np.array([[1, 2, 3], [4, 5, 6.5]], np.float32)
    decoded = events.decode(events.REVISED, events.pack_rewards(rows, x), 3)
    assert isinstance(decoded, Revised)
    assert decoded.rows.tobytes() == rows.tobytes()
    assert decoded.x is not None
    assert decoded.x.tobytes() == x.tobytes()


def test_a_revision_holds_two_rewards() -> None:
    rows = revisions([1, 2], [2.0, 3.0], [4.0, 5.0], 9, times_ms=[3, 4], arms=[0, 1])
    for name, column in (("value", [4.0, 5.0]), ("former", [2.0, 3.0])):
        assert (
            events.rewards_of(rows, name).tobytes()
            == rewards([1, 2], values=column, times_ms=[3, 4], arms=[0, 1]).tobytes()
        )


def test_ticks_and_censuses() -> None:
    assert events.decode(events.TICK, b"") == Tick()
    assert events.decode(events.CENSUS, events.encode(Census("key"))) == Census("key")


def test_kinds_are_one_letter_each() -> None:
    kinds = [events.CHANGED, events.EXPOSED, events.REWARDED, events.REVISED, events.TICK, events.CENSUS]
    kinds.append(events.COVARIATES)
    assert len(set(kinds)) == len(kinds)
    assert all(len(kind) == 1 for kind in kinds)


@pytest.mark.parametrize("kind", [b"z", b"", b"cc", b"e", b"m"])
def test_an_unknown_kind_is_an_error_that_names_it(kind: bytes) -> None:
    with pytest.raises(UnreadableEntry, match="kind"):
        events.decode(kind, b"")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (events.REWARDED, b"x" * 55),
        (events.REVISED, b"x" * 71),
        (events.CHANGED, b"\x80"),
        (events.EXPOSED, b"\x93\x01"),
        (events.CENSUS, b""),
        (events.CHANGED, events.encode(created(experiment()))[:-1]),
    ],
)
def test_broken_entries_are_errors(kind: bytes, data: bytes) -> None:
    with pytest.raises(UnreadableEntry):
        events.decode(kind, data)


WIRE: list[tuple[bytes, Any]] = [
    (events.CHANGED, created(experiment(arms=[{"name": "a", "features": [1.0]}]))),
    (events.EXPOSED, msgspec.structs.replace(exposed(0, [1], [5]), pairs=(Pair(0, "u", "i", None),))),
    (events.CENSUS, Census("key")),
    (events.COVARIATES, Covariates(1, 0, 1, ("a",), bytes(8), bytes(4))),
]


def extended(value: Any) -> Iterator[Any]:
    """`value`, of MessagePack, with one field or element more, at each place where there could be one."""
    match value:
        case dict():
            yield {**value, "later": 1}
            for name, part in value.items():
                # What a caller handed over is his own.
                if name not in ("payload", "prior", "shares", "pseudo_history"):
                    for more in extended(part):
                        yield {**value, name: more}
        case list():
            for i, part in enumerate(value):
                for more in extended(part):
                    yield [*value[:i], more, *value[i + 1 :]]


@pytest.mark.parametrize(("kind", "event"), WIRE)
def test_a_field_that_is_not_known_is_an_error_wherever_it_stands(kind: bytes, event: Any) -> None:
    whole = msgspec.msgpack.decode(events.encode(event))
    assert events.decode(kind, msgspec.msgpack.encode(whole)) == event
    later = list(extended(whole))
    if kind == events.EXPOSED:
        later = [[*whole, 1], [*whole[:-1], [[*whole[-1][0], 1]]]]
    if kind == events.COVARIATES:
        later = [[*whole, 1]]
    assert later
    for document in later:
        with pytest.raises(UnreadableEntry):
            events.decode(kind, msgspec.msgpack.encode(document))


def test_fields_that_former_versions_did_not_write_have_their_defaults() -> None:
    whole = msgspec.msgpack.decode(events.encode(exposed(0, [1, 0], [5, 6])))
    former = events.decode(events.EXPOSED, msgspec.msgpack.encode(whole[:9]))
    assert former == exposed(0, [1, 0], [5, 6])
    changed = msgspec.msgpack.decode(events.encode(created(experiment())))
    del changed["record"]["standings"]
    del changed["change"]["arm"]
    assert events.decode(events.CHANGED, msgspec.msgpack.encode(changed)) == created(experiment())


FITTING = msgspec.structs.replace(
    exposed(0, [0, 1, 1], [5, 6, 900]), units=bytes(24), held_out=b"\x05", x=bytes(24)
)


@pytest.mark.parametrize(
    "fields",
    [
        {"arms": FITTING.arms[:-1]},
        {"arms": FITTING.arms[:-2]},
        {"arms": b""},
        {"ages_ms": FITTING.ages_ms[:-4]},
        {"ages_ms": FITTING.ages_ms + bytes(4)},
        {"units": bytes(8)},
        {"runs": np.array([2], np.uint32).tobytes()},
        {"runs": np.array([2**32 - 1, 4], np.uint32).tobytes()},
        {"runs": b""},
        {"runs": b"abc"},
        {"vectors": np.full(3, 1 / 3).tobytes(), "runs": np.array([2, 1], np.uint32).tobytes()},
        {"vectors": np.ones(1).tobytes()},
        {"vectors": b""},
        {"vectors": np.array([np.nan, 1.0]).tobytes()},
        {"vectors": np.array([-0.5, 1.5]).tobytes()},
        {"held_out": b"\x05\x00"},
        {"x": bytes(20)},
        {"x": b""},
        {"first": -1},
        {"first": 2**42},
        {"incarnation": 2**64},
        {"incarnation": -1},
        {"revision": 2**32},
        {"time_ms": 2**53},
        {"pairs": (Pair(3, "u", "i"),)},
        {"pairs": (Pair(-1, "u", "i"),)},
    ],
    ids=str,
)
def test_columns_that_do_not_fit_together_are_an_error(fields: dict[str, Any]) -> None:
    assert events.decode(events.EXPOSED, events.encode(FITTING), 2) == FITTING
    bad = msgspec.structs.replace(FITTING, **fields)
    try:
        data = events.encode(bad)
    except OverflowError:
        assert fields == {"incarnation": 2**64}
        return
    with pytest.raises(UnreadableEntry):
        events.decode(events.EXPOSED, data, 2)
