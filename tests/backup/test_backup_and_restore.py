"""Backups of private and named stores, what a restore refuses, and restores that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from commands import Finished, bandit_serve, save_model
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, wait_until

from bandit_serve.backup.file import MAGIC, VERSION, BackupWriter
from bandit_serve.backup.parts import End, Header, OfNamespace
from bandit_serve.backup.restoring import BackupReader
from bandit_serve.store.keys import Keys

KEYS = Keys()
N_DECISIONS = 300
PLACES = scaled(40, 2_000)


def fill(service: ThrowawayService) -> list[dict[str, Any]]:
    """Makes an experiment with a model, decisions and rewards; returns the rewards' bodies."""
    model = save_model(service.data / "model")
    where = ("--data", service.data)
    assert bandit_serve("models", "register", "m", model, "--version", "v1", *where).status == 0
    assert bandit_serve("models", "promote", "m", "v1", *where).status == 0
    described = {
        "id": "e",
        "arms": [{"name": "control"}, {"name": "other", "model": "m", "version": "v1"}],
        "metrics": [
            {"name": "click", "kind": "binary", "role": "objective"},
            {"name": "spend", "kind": "continuous"},
        ],
        "attribution": {"window": "1h", "missing": "ignore"},
    }
    made = service.call("POST", "/v1/experiments", described)
    assert made.status == 201, made.body
    assert service.call("POST", "/v1/experiments/e/start").status == 200
    requests = [{"unit": f"u{number}"} for number in range(N_DECISIONS)]
    decided = service.call("POST", "/v1/experiments/e/decide/batch", {"requests": requests})
    tokens = [each["decision_id"] for each in decided.body["responses"]]
    rewards: list[dict[str, Any]] = []
    for number, token in enumerate(tokens):
        rewards.append({"decision_id": token, "metric": "click", "value": float(number % 2)})
        rewards.append({"decision_id": token, "metric": "spend", "value": 1.5 * number, "event_id": "x"})
    answer = service.call("POST", "/v1/rewards", {"rewards": rewards})
    assert set(answer.body["verdicts"]) == {"accepted"}
    return rewards


class Made:
    """Backup of a service that has ended, and the rewards that it had counted."""

    def __init__(self, file: Path, rewards: list[dict[str, Any]], digest: str) -> None:
        self.file = file
        self.rewards = rewards
        self.digest = digest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    with ThrowawayService(folder / "d", "--snapshot-every", "1s") as service:
        rewards = fill(service)
        with redis.Redis(unix_socket_path=str(service.data / "store.sock")) as client:
            wait_until(lambda: client.hlen(KEYS.snapshots("e", "policy")) > 0)
            client.hset(KEYS.agreement("m", "v1"), "0000000000000001", b"sums")
            client.pexpire(KEYS.agreement("m", "v1"), 1_000_000)
            client.zadd(KEYS.told, {"srm:e": float("inf"), "alarm:e:1": 5.0})
            client.hset(KEYS.notices, "srm:e", b"waits")
        took = bandit_serve("backup", "--data", service.data, "--out", folder / "backup", "--json")
        assert took.status == 0, took.err
        assert took.document["artifacts"] == 1
        assert took.document["missing"] == []
    return Made(folder / "backup", rewards, digest("--data", service.data))


def digest(*where: str | Path) -> str:
    done = bandit_serve("replay", "e", *where, "--json")
    assert done.status == 0, done.out + done.err
    (replayed,) = done.document["experiments"]
    return str(replayed["digest"])


def assert_serves_as_before(service: ThrowawayService, made: Made) -> None:
    answer = service.call("POST", "/v1/rewards", {"rewards": made.rewards})
    assert set(answer.body["verdicts"]) == {"duplicate"}
    predicted = service.call("POST", "/v1/models/m/predict", {"user_id": "0", "item_ids": ["0"]})
    assert predicted.status == 200, predicted.body
    assert service.call("GET", "/v1/models/m").body["production"] == "v1"


def test_a_private_store_comes_back_as_a_named_one_and_returns(
    made: Made, store: ThrowawayStore, tmp_path: Path
) -> None:
    data = tmp_path / "files"
    done = bandit_serve("restore", made.file, "--store", store.url, "--data", data, "--namespace", "other")
    assert done.status == 0, done.err
    keys = Keys("other")
    with store.client() as client:
        assert client.get(keys.restoring) is None
        assert 0 < client.pttl(keys.agreement("m", "v1")) <= 1_000_000
        assert client.zcard(keys.expiries("e")) > 0
        assert dict(client.zrange(keys.told, 0, -1, withscores=True)) == {
            b"srm:e": float("inf"),
            b"alarm:e:1": 5.0,
        }
        assert client.hgetall(keys.notices) == {b"srm:e": b"waits"}
        assert {key.split(b":")[0] for key in client.scan_iter()} == {b"other"}
    with ThrowawayService(data, "--namespace", "other", store=store.url) as service:
        assert_serves_as_before(service, made)
        second = tmp_path / "second"
        where = ("--store", store.url, "--namespace", "other", "--data", data)
        took = bandit_serve("backup", *where, "--out", second, "--json")
        assert took.status == 0, took.err
        assert took.document["artifacts"] == 1
    back = tmp_path / "back"
    done = bandit_serve("restore", second, "--data", back)
    assert done.status == 0, done.err
    assert len(list((back / "artifacts").glob("*.safetensors"))) == 1
    with ThrowawayService(back) as service:
        assert_serves_as_before(service, made)


def test_the_state_is_the_same_bit_for_bit(made: Made, tmp_path: Path) -> None:
    done = bandit_serve("restore", made.file, "--data", tmp_path / "d", "--json")
    assert done.status == 0, done.err
    assert done.document["logs"] == 2
    assert digest("--data", tmp_path / "d") == made.digest


def test_model_files_go_into_the_store_where_they_are_kept_there(
    made: Made, store: ThrowawayStore, tmp_path: Path
) -> None:
    where = ("--store", store.url, "--artifacts", "store")
    done = bandit_serve("restore", made.file, *where, "--data", tmp_path / "one")
    assert done.status == 0, done.err
    with store.client() as client:
        assert len(list(client.scan_iter("*:artifact:*"))) == 1
    took = bandit_serve("backup", *where, "--data", tmp_path / "two", "--out", tmp_path / "again", "--json")
    assert took.status == 0, took.err
    assert took.document["artifacts"] == 1


def test_log_time_goes_on_behind_a_clock_that_is_slow(
    made: Made, store: ThrowawayStore, tmp_path: Path
) -> None:
    """The store's clock can not be set here: the backup is given a later one."""
    from bandit_serve.backup.file import BackupWriter
    from bandit_serve.backup.parts import Header

    later_ms = time.time_ns() // 10**6 + 3_600_000
    ahead = tmp_path / "ahead"
    with made.file.open("rb") as file, ahead.open("wb") as out:
        reader = BackupReader(file)
        writer = BackupWriter(out, Header(reader.header.version, reader.header.build, "x", later_ms))
        for part in reader:
            writer.write(End(later_ms, []) if isinstance(part, End) else part)
    done = bandit_serve("restore", ahead, "--store", store.url, "--data", tmp_path / "d")
    assert done.status == 0, done.err
    with ThrowawayService(tmp_path / "d", store=store.url) as service:
        decided = service.call("POST", "/v1/experiments/e/decide", {"unit": "new"}).body["decision_id"]
        rewarded = {"decision_id": decided, "metric": "click", "value": 1.0}
        assert service.call("POST", "/v1/rewards", rewarded).status == 200
        with store.client() as client:
            ((newest, _),) = client.xrevrange(KEYS.log("e"), count=1)
            assert int(newest.split(b"-")[0]) >= later_ms


def test_a_store_or_directory_that_has_something_is_refused(
    made: Made, store: ThrowawayStore, tmp_path: Path
) -> None:
    with ThrowawayService(tmp_path / "d", store=store.url):
        pass
    with store.client() as client:
        before = sorted(client.scan_iter())
    done = bandit_serve("restore", made.file, "--store", store.url, "--data", tmp_path / "d")
    assert done.status == 1
    assert "has something in the namespace 'bandit_serve' already" in done.err
    with store.client() as client:
        assert set(client.scan_iter()) <= set(before)
    with ThrowawayService(tmp_path / "e"):
        pass
    done = bandit_serve("restore", made.file, "--data", tmp_path / "e")
    assert done.status == 1
    assert "has a store already" in done.err


def assert_refused(content: bytes, folder: Path, says: str) -> None:
    file, data = folder / "damaged", folder / "nothing"
    file.write_bytes(content)
    done = bandit_serve("restore", file, "--data", data)
    assert done.status == 1, done.out
    assert says in done.err
    assert not data.exists()


def spread(n: int) -> list[int]:
    return sorted({round(n * place / PLACES) for place in range(PLACES)})


@pytest.mark.timeout(600)
def test_a_part_of_a_backup_is_refused(made: Made) -> None:
    content = made.file.read_bytes()
    for length in [*spread(len(content)), len(content) - 1]:
        assert_damaged(made.file.with_name("cut"), content[:length])


@pytest.mark.timeout(600)
def test_a_backup_with_another_byte_is_refused(made: Made) -> None:
    content = bytearray(made.file.read_bytes())
    for place in [*spread(len(content)), len(content) - 1]:
        content[place] ^= 1 << (place % 8)
        assert_damaged(made.file.with_name("flipped"), bytes(content))
        content[place] ^= 1 << (place % 8)


def assert_damaged(file: Path, content: bytes) -> None:
    """In this process, as there are many: `restore` checks as this does before anything else."""
    from bandit_serve.backup.file import DamagedBackup
    from bandit_serve.backup.restoring import CheckedBackup

    file.write_bytes(content)
    with file.open("rb") as opened, pytest.raises(DamagedBackup):
        CheckedBackup(opened)


def test_nothing_is_written_of_a_file_that_is_refused(made: Made, tmp_path: Path) -> None:
    content = made.file.read_bytes()
    assert_refused(content[: len(content) // 2], tmp_path, "ends in the middle")
    assert_refused(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], tmp_path, "is damaged")
    assert_refused(content + b"x", tmp_path, "goes on behind its end")
    assert_refused(b"PK\3\4", tmp_path, "no backup of bandit-serve")
    assert_refused(with_version(content, 2), tmp_path, "of version 2, and this build reads version 1")


def with_version(content: bytes, version: int) -> bytes:
    """Same backup with another version in its header, whose checksum is right."""
    import hashlib

    length = int.from_bytes(content[len(MAGIC) :][:4], "little")
    start = len(MAGIC) + 20
    header = json.loads(content[start : start + length]) | {"version": version}
    body = json.dumps(header).encode()
    checksum = hashlib.sha256(body).digest()[:16]
    return MAGIC + len(body).to_bytes(4, "little") + checksum + body + content[start + length :]


def restoring(made: Made, *where: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bandit_serve", "restore", made.file, *where]
    return subprocess.Popen(
        list(map(str, command)), env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("n_keys", [2, 5, 9, 14])
def test_a_restore_that_was_killed_is_not_served_and_begins_again(
    made: Made, store: ThrowawayStore, tmp_path: Path, n_keys: int
) -> None:
    where = ("--store", store.url, "--data", tmp_path / "d")
    process = restoring(made, *where)
    with store.client() as client:
        wait_until(lambda: client.dbsize() >= n_keys or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        unfinished = client.exists(KEYS.restoring)
    if unfinished:
        served = refused("serve", "--port", "0", *where)
        assert "restore into this store has not finished" in served.err
        assert "restore into this store has not finished" in refused("experiments", "list", *where).err
    done = bandit_serve("restore", made.file, *where)
    if not unfinished:
        assert done.status == 1
        pytest.skip("it was done before it was killed")
    assert done.status == 0, done.err
    assert digest(*where) == made.digest
    with ThrowawayService(tmp_path / "d", store=store.url) as service:
        assert_serves_as_before(service, made)


def refused(*arguments: str | Path) -> Finished:
    done = bandit_serve(*arguments)
    assert done.status == 1, done.out
    return done


def test_a_data_directory_whose_restore_was_killed_is_not_served(made: Made, tmp_path: Path) -> None:
    data = tmp_path / "d"
    process = restoring(made, "--data", data)
    wait_until(lambda: (data / "store.sock").exists() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.lexists(data / "restoring")
    done = bandit_serve("serve", "--port", "0", "--data", data)
    assert done.status == 2
    assert "has not finished: run `bandit-serve restore` with that backup again" in done.err
    other = tmp_path / "other"
    with ThrowawayService(tmp_path / "o"):
        assert bandit_serve("backup", "--data", tmp_path / "o", "--out", other).status == 0
    done = bandit_serve("restore", other, "--data", data)
    assert done.status == 1
    assert "A restore of another backup" in done.err
    done = bandit_serve("restore", made.file, "--data", data)
    assert done.status == 0, done.err
    assert digest("--data", data) == made.digest


def test_a_backup_may_name_no_place_beyond_its_tenants(tmp_path: Path) -> None:
    """A tenant's name becomes that of a folder, so one that is no name is refused before anything is written."""
    for namespaces in (["", "../../x"], ["", "a", "a"], ["a"], ["", ""]):
        file = tmp_path / "b"
        with file.open("wb") as out:
            writer = BackupWriter(out, Header(VERSION, "1", "bandit_serve", 0))
            for below in namespaces:
                writer.write(OfNamespace(below))
            writer.write(End(0, []))
        refused = bandit_serve("restore", file, "--data", tmp_path / "r")
        assert refused.status != 0
        assert "none of its kind belongs" in refused.err
        assert not (tmp_path / "r").exists()


def test_an_experiment_that_is_set_aside_is_still_that_after_a_restore(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path / "a") as service:
        fill(service)
        with redis.Redis(unix_socket_path=str(service.data / "store.sock")) as client:
            bad: Any = client.xadd(KEYS.log("e"), {b"z": b"\x80"})
            client.xadd(KEYS.log(".common"), {b"z": b"\x80"})
        wait_until(lambda: len(service.call("GET", "/health/ready").body.get("reasons", [])) >= 2)
        done = bandit_serve("backup", "--data", service.data, "--out", tmp_path / "f")
        assert done.status == 0, done.err
    done = bandit_serve("restore", tmp_path / "f", "--data", tmp_path / "b")
    assert done.status == 0, done.err
    with ThrowawayService(tmp_path / "b") as again:
        reasons = again.call("GET", "/health/ready").body["reasons"]
        assert {each["what"] for each in reasons} >= {"set_aside", "registry"}
        assert any(bad.decode() in each["detail"] for each in reasons)
