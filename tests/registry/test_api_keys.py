"""Keys of callers: how they are made, found, revoked and forgotten."""

from __future__ import annotations

import secrets

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bandit_serve.errors import Conflict, NotFound, UnreadableEntry
from bandit_serve.log.offset import Offset
from bandit_serve.registry import api_keys
from bandit_serve.registry.api_keys import (
    ID_CHARS,
    KEY_CHARS,
    PREFIX,
    SECRET_CHARS,
    ApiKey,
    KeyCreated,
    KeyRevoked,
    Keys,
    creation,
    key_of,
    new_key,
    revocation,
)
from bandit_serve.registry.registry import (
    KEY_CREATED,
    KEY_REVOKED,
    Registry,
    decode_registry_event,
)

DAY_MS = 86_400_000
SOME_ID = "a" * ID_CHARS


def with_key(keys: Keys | None = None, *, expires_ms: int | None = None) -> tuple[Keys, str, str]:
    """Keys with one more, its id and its text."""
    made = new_key("web", "serve", expires_ms, "cli:me")
    return api_keys.created(keys or {}, made.event, 1_000), made.event.id, made.text


def test_a_key_is_found_by_its_text_and_keeps_no_secret() -> None:
    keys, id, text = with_key()
    found = key_of(keys, text, 2_000)
    assert found is keys[id]
    assert (found.name, found.scope, found.created_ms, found.created_by) == ("web", "serve", 1_000, "cli:me")
    assert len(text) == KEY_CHARS
    secret = text[-SECRET_CHARS:]
    assert secret.encode() not in msgspec.msgpack.encode(keys)


def test_keys_are_apart() -> None:
    first, _, a = with_key()
    keys, _, b = with_key(first)
    assert a != b
    assert {each.salt for each in keys.values()} != {bytes(16)}
    assert len({each.salt for each in keys.values()}) == len({each.digest for each in keys.values()}) == 2
    id, other = a[len(PREFIX) : -SECRET_CHARS - 1], b[-SECRET_CHARS:]
    assert key_of(keys, f"{PREFIX}{id}_{other}", 0) is None, "a secret is of one id"
    assert key_of({}, a, 0) is None, "keys of another store"


@given(at=st.integers(0, KEY_CHARS - 1), other=st.characters())
def test_no_text_but_its_own_finds_a_key(at: int, other: str) -> None:
    keys, _, text = with_key()
    assume(other != text[at])
    for wrong in (text[:at] + other + text[at + 1 :], text[:at], text + other, other + text, text.upper()):
        assert key_of(keys, wrong, 0) is None


def test_an_unknown_id_costs_a_digest_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    made, digest = 0, api_keys._digest

    def counted(secret: str, salt: bytes) -> bytes:
        nonlocal made
        made += 1
        return digest(secret, salt)

    keys, _, text = with_key()
    monkeypatch.setattr(api_keys, "_digest", counted)
    assert key_of(keys, text, 0) is not None
    assert key_of({}, text, 0) is None
    assert made == 2


def test_a_hundred_thousand_forged_keys_find_none() -> None:
    keys, id, text = with_key()
    for _ in range(50_000):
        forged = secrets.token_urlsafe(32)
        assert key_of(keys, f"{PREFIX}{id}_{forged}", 0) is None
        assert key_of(keys, f"{PREFIX}{SOME_ID}_{forged}", 0) is None
    assert key_of(keys, text, 0) is not None


@pytest.mark.parametrize(("now_ms", "is_valid"), [(1_000, True), (4_999, True), (5_000, False)])
def test_a_key_ends_at_its_time(now_ms: int, is_valid: bool) -> None:
    keys, _, text = with_key(expires_ms=5_000)
    assert (key_of(keys, text, now_ms) is not None) == is_valid


def test_a_revoked_key_finds_nothing_and_says_who_ended_it() -> None:
    keys, id, text = with_key()
    event = revocation(keys, id, "cli:you")
    assert event == KeyRevoked(id, "cli:you")
    keys = api_keys.revoked(keys, event, 3_000)
    assert key_of(keys, text, 3_000) is None
    assert (keys[id].revoked_ms, keys[id].revoked_by) == (3_000, "cli:you")
    assert revocation(keys, id, "cli:you") is None
    assert api_keys.revoked(keys, KeyRevoked(id, "cli:they"), 9_000) == keys
    with pytest.raises(NotFound):
        revocation(keys, "none", "cli:you")


def test_an_impossible_log_is_unreadable() -> None:
    keys, id, _ = with_key()
    with pytest.raises(UnreadableEntry):
        api_keys.revoked({}, KeyRevoked(id, "x"), 0)
    again = KeyCreated(id, "web", "serve", bytes(16), bytes(32), None, "x")
    with pytest.raises(UnreadableEntry):
        api_keys.created(keys, again, 0)


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 3)
    monkeypatch.setattr(api_keys, "MAX_ENDED_KEYS", 2)
    keys: Keys = {}
    ids = []
    for _ in range(3):
        keys, id, _ = with_key(keys)
        ids.append(id)
    made = new_key(None, "read", None, "x").event
    with pytest.raises(Conflict, match="3 valid keys"):
        creation(keys, made, 0)
    for id in ids:
        keys = api_keys.revoked(keys, KeyRevoked(id, "x"), 2_000)
    creation(keys, made, 3_000)
    keys = api_keys.created(keys, made, 3_000)
    assert list(keys) == [*ids[1:], made.id], "the one that ended first is forgotten"
    assert keys[made.id].name == made.id


def test_the_registry_folds_keys_and_restores_them() -> None:
    registry, made = Registry(), new_key("ops", "admin", 9 * DAY_MS, "cli:me")
    for n, (kind, event) in enumerate(
        [(KEY_CREATED, made.event), (KEY_REVOKED, KeyRevoked(made.event.id, "cli:you"))], 1
    ):
        registry.apply(Offset(n * 1_000, 0), decode_registry_event(kind, msgspec.msgpack.encode(event)))
        again = Registry.from_state(registry.offset, registry.state())
        assert (again.keys, again.revision) == (registry.keys, n)
        assert again.state() == registry.state()
    assert registry.keys[made.event.id].revoked_ms == 2_000


@pytest.mark.parametrize("fault", [{"id": "b"}, {"salt": b"short"}, {"digest": b""}])
def test_a_state_that_no_events_lead_to_is_refused(fault: dict[str, object]) -> None:
    keys, id, _ = with_key()
    wrong: ApiKey = msgspec.structs.replace(keys[id], **fault)
    registry = Registry()
    registry.keys = {id: wrong}
    with pytest.raises(UnreadableEntry):
        Registry.from_state(Offset(1, 0), registry.state())


def test_a_key_of_a_tenant_keeps_it_and_one_without_is_written_as_before() -> None:
    of_tenant, own = (
        new_key("web", "serve", None, "me", "shop").event,
        new_key("web", "serve", None, "me").event,
    )
    assert b"tenant" not in msgspec.msgpack.encode(own)
    assert decode_registry_event(KEY_CREATED, msgspec.msgpack.encode(of_tenant)) == of_tenant
    keys = api_keys.created(api_keys.created({}, of_tenant, 1_000), own, 1_000)
    assert api_keys.tenants_of(keys, 2_000) == {"shop"}
    for tenant in ("other", ""):
        with pytest.raises(NotFound):
            revocation(keys, of_tenant.id, "me", tenant)
    with pytest.raises(NotFound):
        revocation(keys, own.id, "me", "shop")
    gone = api_keys.revoked(keys, revocation(keys, of_tenant.id, "me", "shop"), 3_000)  # type: ignore[arg-type]
    assert api_keys.tenants_of(gone, 4_000) == set()


def test_one_tenant_leaves_room_for_the_keys_of_others() -> None:
    keys: Keys = {}
    for _ in range(api_keys.MAX_TENANT_KEYS):
        keys = api_keys.created(keys, new_key("web", "serve", None, "me", "shop").event, 1_000)
    with pytest.raises(Conflict, match="at most 100"):
        creation(keys, new_key("web", "serve", None, "me", "shop").event, 2_000)
    assert creation(keys, new_key("web", "serve", None, "me", "other").event, 2_000)
    for i in range(api_keys.MAX_TENANTS - 1):
        keys = api_keys.created(keys, new_key("web", "serve", None, "me", f"t{i}").event, 1_000)
    with pytest.raises(Conflict, match="tenants"):
        creation(keys, new_key("web", "serve", None, "me", "one-more").event, 2_000)
