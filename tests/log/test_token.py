"""Decision tokens: their layout, their only spelling, and the refusal of all others."""

from __future__ import annotations

import base64
import struct
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.log._token import KEY_BYTES, MAX_FEATURES, TOKEN_CHARS, Opener, Seal
from bandit_serve.log.events import REWARD
from bandit_serve.log.times import KEY_SETTLES_MS
from bandit_serve.log.token import Keyring, new_key

KEY = bytes(range(KEY_BYTES))
ARMS, SHARES = np.array([0, 2], np.uint16), np.array([0.5, 0.25])
UNITS = np.array([1, 2**63], np.uint64)
FIELDS = (
    0x1122334455667788,
    0x99AABBCCDDEEFF00,
    70_000,
    1_700_000_000_123,
    3,
    2,
    0.125,
    0xFEDCBA9876543210,
    1,
)

u64 = st.integers(0, 2**64 - 1)
u48 = st.integers(0, 2**48 - 1)
fields = st.tuples(
    st.integers(1, 2**64 - 1),
    u64,
    u48,
    u48,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.floats(0, 1),
    u64,
    st.integers(0, 255),
)


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def opened(tokens: list[Any], *seals: Seal, value: float = 1.5) -> tuple[Any, list[int]]:
    rows, uids = np.zeros(len(tokens), REWARD), np.zeros(len(tokens), np.uint64)
    as_bytes = rows.view(np.uint8).reshape(len(tokens), REWARD.itemsize)
    Opener(seals).open_into(tokens, np.full(len(tokens), value), as_bytes, uids)
    return rows, uids.tolist()


def reference(key_id: int, key: bytes, decision: tuple[Any, ...]) -> str:
    """The layout as the kernel's docstring states it."""
    experiment, incarnation, counter, time_ms, revision, arm, propensity, unit, flags = decision
    body = struct.pack("<BBQQ", 1, key_id, experiment, incarnation)
    body += counter.to_bytes(6, "little") + time_ms.to_bytes(6, "little")
    body += struct.pack("<IHdQB", revision, arm, propensity, unit, flags)
    return encoded(body + blake2b(body, key=key, digest_size=16, person=b"bandit_serve").digest())


@given(st.integers(0, 255), st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), fields)
def test_a_token_is_what_the_layout_says_and_opens_to_what_was_signed(
    key_id: int, key: bytes, decision: tuple[Any, ...]
) -> None:
    seal = Seal(key_id, key)
    token = seal.sign(*decision)
    assert token == reference(key_id, key, decision)
    assert len(token) == TOKEN_CHARS
    rows, uids = opened([token], seal)
    experiment, incarnation, counter, time_ms, revision, arm, propensity, unit, flags = decision
    assert uids == [experiment]
    expected = (incarnation, counter, time_ms, 1.5, propensity, unit, revision, arm, 0, flags)
    assert rows[0].tolist() == expected


def test_many_are_signed_as_one_is() -> None:
    seal = Seal(7, KEY)
    arms, shares = np.array([0, 2, 1], np.uint16), np.array([0.5, 0.25, 0.25])
    units = np.array([1, 2**63, 5], np.uint64)
    for given_units, flags in ((units, None), (units[:0], np.array([0, 1, 255], np.uint8))):
        many = seal.sign_many(9, 8, 65_535, 77, 2, arms, shares, given_units, flags)
        one_by_one = [
            seal.sign(
                9,
                8,
                65_535 + i,
                77,
                2,
                int(arms[i]),
                float(shares[i]),
                int(given_units[i]) if len(given_units) else 0,
                0 if flags is None else int(flags[i]),
            )
            for i in range(3)
        ]
        assert many == one_by_one
        assert opened(many, seal)[1] == [9, 9, 9]


@pytest.mark.parametrize("n_features", [1, 2, 3, 17, MAX_FEATURES])
def test_features_travel_with_a_token(n_features: int) -> None:
    seal, x = Seal(7, KEY), np.random.default_rng(1).normal(size=(2, n_features)).astype(np.float32)
    many = seal.sign_many(9, 8, 6, 5, 4, ARMS, SHARES, UNITS, None, x)
    assert many == [
        seal.sign(9, 8, 6 + i, 5, 4, int(ARMS[i]), float(SHARES[i]), int(UNITS[i]), 0, x[i]) for i in range(2)
    ]
    rows, uids = np.zeros(3, REWARD), np.zeros(3, np.uint64)
    as_bytes = rows.view(np.uint8).reshape(3, REWARD.itemsize)
    features = Opener([seal]).open_into([*many, seal.sign(*FIELDS)], np.ones(3), as_bytes, uids)
    assert uids.tolist() == [9, 9, FIELDS[0]]
    assert features == {0: x[0].tobytes(), 1: x[1].tobytes()}
    assert rows["counter"].tolist()[:2] == [6, 7]


def test_more_features_than_a_token_can_carry_are_refused() -> None:
    x = np.zeros((2, MAX_FEATURES + 1), np.float32)
    with pytest.raises(ValueError, match=str(MAX_FEATURES)):
        Seal(7, KEY).sign_many(9, 8, 6, 5, 4, ARMS, SHARES, UNITS, None, x)
    with pytest.raises(ValueError, match=str(MAX_FEATURES)):
        Seal(7, KEY).sign(*FIELDS, x[0])


@pytest.mark.parametrize("n_features", [0, 1, 2, 3])
def test_every_flipped_bit_is_refused(n_features: int) -> None:
    seal = Seal(0, KEY)
    token = seal.sign(*FIELDS, np.arange(n_features, dtype=np.float32) if n_features else None)
    raw = base64.urlsafe_b64decode(token)
    flipped = [
        encoded(raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :])
        for bit in range(8 * len(raw))
    ]
    assert len({token, *flipped}) == 8 * len(raw) + 1
    everyone = [Seal(key_id, KEY if key_id == 0 else bytes([key_id]) * KEY_BYTES) for key_id in range(256)]
    assert set(opened(flipped, *everyone)[1]) == {0}
    assert opened([token], *everyone)[1] == [FIELDS[0]]


@pytest.mark.parametrize("n_features", [0, 1, 2, 3])
def test_there_is_one_spelling(n_features: int) -> None:
    """Found by trying every character at every place, and what other readers of base64 would forgive."""
    seal = Seal(0, KEY)
    x = np.arange(n_features, dtype=np.float32) if n_features else None
    signed = (seal.sign(*FIELDS[:2], n, *FIELDS[3:], x) for n in range(100))
    token = next(t for t in signed if {"-", "_"} <= set(t))
    others = [
        token[:i] + chr(c) + token[i + 1 :]
        for i in range(len(token))
        for c in range(256)
        if chr(c) != token[i]
    ]
    others += [token[:i] for i in range(len(token))]
    others += [token + tail for tail in ("=", "==", "A", "AAAA", " ", "\n", "\0", "é", token)]
    others += [" " + token, "\n" + token, token[:40] + "\n" + token[40:]]
    others += [token.replace("-", "+").replace("_", "/"), token.lower(), token.swapcase()]
    assert token not in others
    assert set(opened(others, seal)[1]) == {0}
    assert opened([token], seal)[1] == [FIELDS[0]]


def test_what_is_no_text_is_no_token() -> None:
    seal = Seal(0, KEY)
    token = seal.sign(*FIELDS)
    assert opened([None, 7, token.encode(), b"", "", [token], "\ud800" * TOKEN_CHARS], seal)[1] == [0] * 7


def test_only_the_key_that_signed_opens() -> None:
    token = Seal(3, KEY).sign(*FIELDS)
    assert opened([token], Seal(3, KEY[::-1]))[1] == [0]
    assert opened([token], Seal(4, KEY))[1] == [0], "the key's id is part of what is signed"
    assert opened([token])[1] == [0]
    assert opened([token], Seal(2, KEY[::-1]), Seal(3, KEY))[1] == [FIELDS[0]]


@pytest.mark.parametrize(("key_id", "key"), [(-1, KEY), (256, KEY), (0, KEY[1:]), (0, KEY + b"\0"), (0, b"")])
def test_a_wrong_key_is_refused(key_id: int, key: bytes) -> None:
    with pytest.raises(ValueError, match="expected a key"):
        Seal(key_id, key)


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="arrays of one length"):
        Seal(0, KEY).sign_many(1, 1, 0, 0, 1, np.zeros(2, np.uint16), np.ones(1), np.zeros(0, np.uint64))
    rows, uids = np.zeros((1, 56), np.uint8), np.zeros(1, np.uint64)
    with pytest.raises(ValueError, match="arrays of one length"):
        Opener([]).open_into(["a", "b"], np.zeros(2), rows, uids)


def test_a_new_key_signs_when_every_worker_knows_it_and_an_old_one_opens_until_its_tokens_are_late() -> None:
    keys = {0: new_key(0), 1: new_key(1_000_000)}
    before = Keyring(keys, 1_000_000 + KEY_SETTLES_MS - 1)
    after = Keyring(keys, 1_000_000 + KEY_SETTLES_MS)
    assert (before.seal.key_id, after.seal.key_id) == (0, 1)
    for signer in (before, after):
        token = signer.seal.sign(*FIELDS)
        assert (
            before.open([token], np.ones(1))[1].tolist()
            == after.open([token], np.ones(1))[1].tolist()
            == [FIELDS[0]]
        )
    longest_ms = 5_000
    last_ms = 1_000_000 + 2 * KEY_SETTLES_MS + longest_ms
    assert after.expired(last_ms, longest_ms) == []
    assert after.expired(last_ms + 1, longest_ms) == [0]
    assert Keyring({1: keys[1]}, last_ms).expired(10**12, longest_ms) == [], "the newest never expires"
    assert (after.newest, after.needs_new(1_000_099, 100), after.needs_new(1_000_100, 100)) == (
        1,
        False,
        True,
    )
