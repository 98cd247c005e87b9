"""Forged and damaged decision tokens: a real service accepts none, and none causes a failure."""

from __future__ import annotations

import base64
import http.client
import json
import random
import secrets
import time
from pathlib import Path

from http_calls import decide_many, draft, reward_many, running
from services import ThrowawayService
from stores import wait_until

from bandit_serve.log._token import Seal

N_TOKENS = 50
N_SINGLES = 1_500


def bits_flipped(token: str) -> list[str]:
    """Each bit of what is encoded, and each of the seven of each character."""
    raw = base64.urlsafe_b64decode(token)
    spoiled = []
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        spoiled.append(base64.urlsafe_b64encode(changed).decode())
    spoiled += [
        token[:i] + chr(ord(token[i]) ^ 1 << bit) + token[i + 1 :]
        for i in range(len(token))
        for bit in range(7)
    ]
    return spoiled


def cut_and_extended(token: str) -> list[str]:
    tails = ["=", "==", "===", "A", "AAAA", " ", "\n", "\t", "\0", "é", "💥", token, "." + token]
    return [token[:i] for i in range(len(token))] + [token + tail for tail in tails]


def spelled_otherwise(token: str) -> list[str]:
    wrapped = [
        f" {token}",
        f"\n{token}",
        f"{token[:46]}\n{token[46:]}",
        f"{token[:46]} {token[46:]}",
        f'"{token}"',
    ]
    return [*wrapped, token.swapcase(), token[::-1], token.replace("-", "+").replace("_", "/") + "="]


def spliced(token: str, other: str) -> list[str]:
    """The other decision's experiment, number, time, arm and propensity, signature, one after another."""
    raw, donor = base64.urlsafe_b64decode(token), base64.urlsafe_b64decode(other)
    parts = [(2, 10), (10, 18), (18, 24), (24, 30), (30, 36), (36, 44), (44, 52), (53, 69), (0, 53)]
    return [base64.urlsafe_b64encode(raw[:a] + donor[a:b] + raw[b:]).decode() for a, b in parts]


def signed_by_another_key(token: str) -> list[str]:
    raw = base64.urlsafe_b64decode(token)

    def number(begin: int, end: int) -> int:
        return int.from_bytes(raw[begin:end], "little")

    numbers = (number(2, 10), number(10, 18), number(18, 24), number(24, 30), number(30, 34), number(34, 36))
    return [
        Seal(key_id, key).sign(*numbers, 0.5, number(44, 52))
        for key_id in (0, 1, 255)
        for key in (secrets.token_bytes(32), bytes(32))
    ]


def mutants(tokens: list[str], others: list[str]) -> list[str]:
    spellings: set[str] = set()
    for token, other in zip(tokens, others, strict=True):
        spellings.update(bits_flipped(token), cut_and_extended(token), spelled_otherwise(token))
        spellings.update(spliced(token, other), signed_by_another_key(token))
    shuffled = sorted(spellings - {*tokens, *others})
    random.Random(5).shuffle(shuffled)
    return shuffled


def test_fifty_thousand_mutants_are_refused(service: ThrowawayService) -> None:
    # The uniform propensity of both experiments would make a splice of it a no-op, so their splits differ.
    mine = running(
        service, unit="user", policy={"kind": "fixed_split", "shares": {"control": 1, "challenger": 2}}
    )
    theirs = running(service)
    units = [f"u{i}" for i in range(N_TOKENS)]
    tokens, others = (decide_many(service, name, units)["decision_ids"] for name in (mine, theirs))
    spoiled = mutants(tokens, others)
    assert len(spoiled) >= 50_000
    assert set(reward_many(service, spoiled, [1.0] * len(spoiled))) == {"invalid"}

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    statuses = set()
    for token in spoiled[:N_SINGLES]:
        body = json.dumps({"decision_id": token, "value": 1}).encode()
        connection.request("POST", "/v1/rewards", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        statuses.add(answer.status)
    connection.close()
    assert statuses == {400}

    assert reward_many(service, tokens, [1.0] * N_TOKENS) == ["accepted"] * N_TOKENS, "no mutant used one up"
    assert reward_many(service, others, [1.0] * N_TOKENS) == ["accepted"] * N_TOKENS
    for name in (mine, theirs):
        arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
        assert sum(arm["metrics"]["click"]["n"] for arm in arms) == N_TOKENS


def test_expired_tokens_and_their_mutants_are_refused(service: ThrowawayService) -> None:
    name = running(service, attribution={"window": "50ms", "missing": "ignore"})
    tokens = decide_many(service, name, [f"u{i}" for i in range(100)])["decision_ids"]
    late_s = time.monotonic() + 0.06
    wait_until(lambda: time.monotonic() > late_s)
    assert set(reward_many(service, tokens, [1.0] * 100)) == {"late"}
    later = []
    for token in tokens:
        raw = bytearray(base64.urlsafe_b64decode(token))
        raw[24:30] = (int.from_bytes(raw[24:30], "little") + 3_600_000).to_bytes(6, "little")
        later.append(base64.urlsafe_b64encode(raw).decode())
    assert set(reward_many(service, later, [1.0] * 100)) == {"invalid"}, "a later time is not believed"


def test_a_namesake_elsewhere_refuses_tokens(service: ThrowawayService, tmp_path: Path) -> None:
    """The experiment of a token is known by a random number, not by its name, and every store has keys of its own."""
    name = running(service)
    token = decide_many(service, name, ["u"])["decision_ids"][0]
    with ThrowawayService(tmp_path) as other:
        draft(other, id=name)
        assert reward_many(other, [token], [1.0]) == ["invalid"]
