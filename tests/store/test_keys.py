"""Keys: each is documented, and all keys of one experiment are in one slot of a cluster."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from redis.crc import key_slot

from bandit_serve.store.keys import COMMON, Keys

KEYS = Keys("some_service")
ARGUMENTS: dict[str, Any] = {
    "owner": "exp-1",
    "fold": "policy",
    "metric": "click",
    "incarnation": 2**64 - 1,
    "block": 3,
    "unit": 2**64 - 1,
    "period": 4,
    "event": 2**64 - 1,
    "name": "c1",
    "offset": "17-0",
    "digest": "0123456789abcdef",
    "model": "m-1",
    "version": "v1",
    "sha256": "ab" * 32,
}
OF_A_TYPE = ("Stream", "String", "Hash", "Bitmap", "Sorted set")


def members() -> dict[str, Any]:
    return {
        name: member
        for name, member in vars(Keys).items()
        if callable(member) or isinstance(member, property)
    }


def made(name: str, /, **other: Any) -> str:
    member = members()[name]
    if isinstance(member, property):
        key = getattr(KEYS, name)
    else:
        wanted = [parameter for parameter in inspect.signature(member).parameters if parameter != "self"]
        key = member(KEYS, *({**ARGUMENTS, **other}[parameter] for parameter in wanted))
    assert isinstance(key, str)
    return key


NAMES = sorted(name for name in members() if not name.startswith("_"))
OF_MODELS = {"agreement", "artifact", "learner", "trainer"}
OWNED = [
    name for name in NAMES if not isinstance(members()[name], property) and name not in {"top_k", *OF_MODELS}
]


def test_there_are_keys() -> None:
    of_folds = {"snapshots", "snapshot_pieces", "census", "acknowledgements"}
    of_rewards = {"seen", "plain", "events", "unit_events", "last_sent", "demanded"}
    assert {"log", "head", "exposed", "expiries", "trimmed", "mark", *of_rewards, *of_folds} == set(OWNED)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_says_its_type_its_lifetime_and_its_reason(name: str) -> None:
    text = inspect.getdoc(members()[name])
    assert text is not None
    assert text.startswith(OF_A_TYPE)
    assert "," in text.split(":")[0], "type, lifetime: reason"
    assert ":" in text or "trimmed by retention" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_in_its_namespace(name: str) -> None:
    assert made(name).startswith("some_service:{")


def test_all_keys_of_an_experiment_have_one_hash_tag() -> None:
    for name in OWNED:
        assert made(name).count("{exp-1}") == 1
        assert made(name).index("{") == made(name).index("{exp-1}")
    assert len({key_slot(made(name).encode()) for name in OWNED}) == 1
    assert len({key_slot(made(name, owner="exp-2").encode()) for name in OWNED}) == 1


def test_what_is_common_has_one_hash_tag_that_no_experiment_can_have() -> None:
    common = [made(name) for name in NAMES if isinstance(members()[name], property)]
    common += [made(name, owner=COMMON) for name in OWNED]
    assert len({key_slot(key.encode()) for key in common}) == 1
    assert not COMMON[0].isalnum()


def test_keys_differ_in_each_of_their_parts() -> None:
    other = {
        "owner": "exp-2",
        "fold": "results",
        "metric": "spend",
        "incarnation": 1,
        "block": 4,
        "unit": 1,
        "period": 5,
        "event": 1,
        "name": "c2",
        "offset": "17-1",
        "digest": "fedcba98",
    }
    for name in OWNED:
        wanted = [
            parameter for parameter in inspect.signature(members()[name]).parameters if parameter != "self"
        ]
        keys = {made(name), *(made(name, **{each: other[each]}) for each in wanted)}
        assert len(keys) == len(wanted) + 1
    assert len({made(name) for name in NAMES}) == len(NAMES)
