"""Stores of each kind with TLS, and with a login that may do what the documents list, and nothing else."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from certificates import Authority
from clusters import ThrowawayCluster
from commands import bandit_serve, save_model
from http_calls import decide, running, upload
from sentinel_sets import ThrowawaySentinels
from services import ThrowawayService
from stores import ThrowawayStore, TlsFiles, server_binaries, speaks_tls, wait_until
from tenancy import Caller, Made

KINDS = ("single", "sentinel", "cluster")
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
LOGIN = "app:s3cret"
# A handshake takes longer than a command, on a busy machine.
PATIENT = ("--store-timeout", "10s")
# redis-py says who it is, and goes on where it may not.
UNNEEDED = {"client|setinfo", "client|setname"}


class Running(NamedTuple):
    """Store that runs: its URL without a login, and the servers that hold data."""

    url: str
    servers: list[ThrowawayStore]


@contextlib.contextmanager
def store_of(
    kind: str,
    *,
    binary: Path | None = None,
    options: dict[str, str] | None = None,
    tls: TlsFiles | None = None,
) -> Iterator[Running]:
    if kind == "single":
        with ThrowawayStore(binary=binary, tcp=True, options=options, tls=tls) as store:
            yield Running(store.url, [store])
    elif kind == "sentinel":
        with ThrowawaySentinels(binary=binary, options=options, tls=tls) as sentinels:
            yield Running(sentinels.url, sentinels.servers)
    else:
        with ThrowawayCluster(binary=binary, options=options, tls=tls) as cluster:
            yield Running(cluster.url, cluster.nodes)


def documented_rules() -> str:
    """Rules of the login, as the documents give them."""
    found = re.search(
        r"^ACL SETUSER bandits on >SECRET (.+?)\n```", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return " ".join(found[1].replace("\\", " ").split())


def acl_file(folder: Path, rules: str) -> Path:
    name, _, password = LOGIN.partition(":")
    file = folder / "users.acl"
    file.write_text(f"user default on nopass ~* &* +@all\nuser {name} on >{password} {rules}\n")
    return file


def refusals(servers: list[ThrowawayStore]) -> set[tuple[str, str]]:
    """Commands and keys that the servers have refused to the login."""
    found = set()
    for server in servers:
        with server.client() as client:
            log: Any = client.acl_log()
        found |= {(str(each["reason"]), str(each["object"])) for each in log}
    return {each for each in found if each[1].strip("b'") not in UNNEEDED}


def use_all(service: ThrowawayService, url: str, folder: Path) -> None:
    """Uses what needs the store: experiments, models, rewards of all kinds, tenants, pages of figures, and commands."""
    where = ("--store", url, "--data", folder / "d", *PATIENT)
    model = save_model(folder / "m").read_bytes()
    made = bandit_serve("keys", "create", "--scope", "admin", "--json", *where)
    assert made.status == 0, made.err
    other = bandit_serve("keys", "create", "--scope", "admin", "--tenant", "shop", "--json", *where)
    assert other.status == 0, other.err
    for whose, flags in ((made, ()), (other, ("--tenant", "shop"))):
        caller: Any = Caller(service, Made(**whose.document))
        assert upload(caller, "m", model, {"version": "v1"}).status == 201
        production = caller.call("POST", "/v1/models/m/versions/v1/status", {"status": "production"})
        assert production.status == 200
        name = running(
            caller,
            id="e",
            unit="user",
            arms=[{"name": name, "model": "m", "version": "v1"} for name in ("control", "other")],
            metrics=[
                {"name": "click", "kind": "binary", "role": "objective"},
                {"name": "spend", "kind": "continuous"},
            ],
        )
        tokens = [decide(caller, name, unit=f"u{i}")["decision_id"] for i in range(20)]
        asked = {"user_id": "1", "k": 2}
        assert caller.call("POST", f"/v1/experiments/{name}/predict", asked).status == 200
        rewards: list[dict[str, Any]] = [
            {"decision_id": token, "metric": "click", "value": i % 2} for i, token in enumerate(tokens)
        ]
        rewards += [{"decision_id": t, "metric": "spend", "value": 1.5, "event_id": "x"} for t in tokens]
        rewards.append({"experiment": name, "unit": "u1", "event_id": "y", "metric": "spend", "value": 2.0})
        for verdict in ("accepted", "duplicate"):
            answer = caller.call("POST", "/v1/rewards", {"rewards": rewards})
            assert answer.status == 200, answer.body
            assert set(answer.body["verdicts"]) == {verdict}
        results = caller.call("GET", f"/v1/experiments/{name}/results")
        assert results.status == 200
        assert sum(arm["metrics"]["click"]["n"] for arm in results.body["arms"]) == 20
        assert caller.call("GET", "/v1/stats").status == 200
        for command in (("replay", name), ("experiments", "results", name), ("models", "list")):
            ran = bandit_serve(*command, *where, *flags)
            assert ran.status == 0, (command, ran.out, ran.err)
    examined = bandit_serve("doctor", *where)
    assert examined.status == 0, examined.out
    taken = bandit_serve("backup", "--out", folder / "b", *where)
    assert taken.status == 0, taken.err


@pytest.mark.parametrize("kind", KINDS)
def test_a_login_that_may_do_what_the_documents_list_is_enough(kind: str, tmp_path: Path) -> None:
    """Nothing is refused to it, and it is refused what is not listed."""
    options = {"aclfile": str(acl_file(tmp_path, documented_rules()))}
    with store_of(kind, options=options) as store:
        url = store.url.replace("://", f"://{LOGIN}@")
        flags = (
            "--artifacts",
            "store",
            "--snapshot-every",
            "1s",
            "--store-replicas",
            str(int(kind != "single")),
        )
        with ThrowawayService(tmp_path / "d", *flags, store=url) as service:
            use_all(service, url, tmp_path)
            assert not refusals(store.servers)
            assert LOGIN.partition(":")[2] not in "".join(service.output)
        assert not refusals(store.servers)
        with store.servers[0].client() as client:
            for command in (("FLUSHALL",), ("GET", "others"), ("CONFIG", "SET", "save", ""), ("KEYS", "*")):
                denied = client.execute_command("ACL", "DRYRUN", LOGIN.partition(":")[0], *command)
                assert denied != b"OK", command


@pytest.mark.parametrize("lacking", ["+info", "+xadd"], ids=["by itself", "in a script"])
def test_a_login_that_lacks_a_command_is_refused_with_a_sentence(lacking: str, tmp_path: Path) -> None:
    options = {"aclfile": str(acl_file(tmp_path, documented_rules().replace(f"{lacking} ", "")))}
    with store_of("single", options=options) as store:
        url = store.url.replace("://", f"://{LOGIN}@")
        refused = bandit_serve("keys", "create", "--scope", "read", "--store", url, "--data", tmp_path / "d")
        assert refused.status == 1
        assert "login may not do what is needed" in refused.err
        assert LOGIN.partition(":")[2] not in refused.err


@cache
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "client").mkdir()
    authority().make().write(folder)
    authority().make(for_servers=False).write(folder / "client")
    (folder / "ca.crt").write_bytes(authority().pem)
    (folder / "other.crt").write_bytes(Authority().pem)
    own, client = ([place / "tls.crt", place / "tls.key"] for place in (folder, folder / "client"))
    return TlsFiles(*own, *client, folder / "ca.crt")


@pytest.fixture(scope="module")
def secure_binary(files: TlsFiles) -> Path:
    for binary in server_binaries():
        if speaks_tls(binary, files):
            return binary
    pytest.skip("no server of this machine was built with TLS")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_goes_over_tls(kind: str, tmp_path: Path, files: TlsFiles, secure_binary: Path) -> None:
    """With the documented login, over TLS alone: the servers, and the sentinels, have no other port."""
    options = {"aclfile": str(acl_file(tmp_path, documented_rules()))}
    with store_of(kind, binary=secure_binary, options=options, tls=files) as store:
        with_login = store.url.replace("://", f"://{LOGIN}@")
        url = f"{with_login}?ssl_ca_certs={files.authority}"
        flags = ("--artifacts", "store", "--store-replicas", str(int(kind != "single")), *PATIENT)
        with ThrowawayService(tmp_path / "d", *flags, store=url) as service:
            use_all(service, url, tmp_path)
            assert not refusals(store.servers)
        where = ("--data", tmp_path / "d", *PATIENT)
        stranger = f"{with_login}?ssl_ca_certs={files.authority.with_name('other.crt')}"
        for wrong in (stranger, with_login.replace("rediss", "redis")):
            refused = bandit_serve("experiments", "list", "--store", wrong, *where)
            assert refused.status == 1
            assert LOGIN.partition(":")[2] not in refused.err


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_a_failover_over_tls_is_followed(
    kind: str, tmp_path: Path, files: TlsFiles, secure_binary: Path
) -> None:
    running_set: Any = (
        ThrowawaySentinels(binary=secure_binary, tls=files)
        if kind == "sentinel"
        else ThrowawayCluster(binary=secure_binary, tls=files)
    )
    with running_set as servers:
        url = f"{servers.url}?ssl_ca_certs={files.authority}"
        # All that a master has, so that whichever is promoted has what was acknowledged.
        replicas = "2" if kind == "sentinel" else "1"
        with ThrowawayService(tmp_path / "d", "--store-replicas", replicas, *PATIENT, store=url) as service:
            name = running(service)  # type: ignore[arg-type]
            token = decide(service, name, unit="u")["decision_id"]
            assert service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200
            dead = (
                servers.fail_over() if kind == "sentinel" else servers.fail_over("bandit_serve:{.common}:log")
            )
            servers.revive(dead)
            after = decide(service, name, unit="v")["decision_id"]

            def counts() -> bool:
                sent = {"rewards": [{"decision_id": after, "value": 1}]}
                return service.call("POST", "/v1/rewards", sent).status == 200

            wait_until(counts)
            repeated = {"rewards": [{"decision_id": each, "value": 1} for each in (token, after)]}
            answer = service.call("POST", "/v1/rewards", repeated)
            assert answer.body["verdicts"] == ["duplicate", "duplicate"]
