"""Private files: a path that others own, can write to or have replaced by a link is refused; new files are 0600."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import bandit_serve, save_model
from http_calls import upload
from services import ThrowawayService, clean_environment

from bandit_serve.base.private_files import open_own, own_folder, truncated
from bandit_serve.errors import UsageError
from bandit_serve.store import PrivateServer

STRANGER = 54_321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Temporary folder with a short path, as sockets are created in it."""
    path = Path(tempfile.mkdtemp(prefix="own-"))
    yield path
    shutil.rmtree(path)


def test_all_that_a_service_makes_is_for_its_user_alone(folder: Path) -> None:
    data = folder / "above" / "data"
    before = os.umask(0o000)
    try:
        with ThrowawayService(data) as service:
            artifact = save_model(folder / "m").read_bytes()
            assert upload(service, "m", artifact, {"status": "staged"}).status == 201
            status = {"status": "production"}
            assert service.call("POST", "/v1/models/m/versions/v1/status", status).status == 200
            experiment = {
                "id": "e",
                "arms": [{"name": "a", "model": "m", "version": "v1"}],
                "metrics": [{"name": "r", "kind": "continuous"}],
            }
            assert service.call("POST", "/v1/experiments", experiment).status == 201
            assert service.call("POST", "/v1/experiments/e/start").status == 200
            learned = bandit_serve("learn", "m", "--until-caught-up", "--data", data)
            assert learned.status in (0, 1), learned
            made = [folder / "above", data, *data.rglob("*"), folder / "m"]
            assert {"store.sock", "store.lock", "store.log", "artifacts"} <= {path.name for path in made}
            open_to_others = {path.name for path in made if path.lstat().st_mode & 0o077}
            assert open_to_others == set()
    finally:
        os.umask(before)


def foreign(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, STRANGER, STRANGER)


def link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = path.parent / "elsewhere"
    target.mkdir()
    path.symlink_to(target)


def writable(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o770)


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "foreign": (foreign, "belongs to another user"),
    "link": (link, "symbolic link"),
    "writable": (writable, "chmod go-w"),
}


@needs_root
@pytest.mark.parametrize("fault", FOLDERS)
@pytest.mark.parametrize("inner", ["", "store", "artifacts"])
def test_a_folder_of_others_is_refused_with_a_sentence(folder: Path, fault: str, inner: str) -> None:
    make, sentence = FOLDERS[fault]
    data = folder / "data"
    make(data / inner)
    if inner:
        data.chmod(0o700)
        os.chown(data, 0, 0)
    use = own_folder if inner == "artifacts" else PrivateServer.start_or_adopt
    with pytest.raises(UsageError, match=sentence):
        use(data / inner if inner == "artifacts" else data)


@needs_root
def test_serve_and_demo_refuse_it_too(folder: Path) -> None:
    writable(folder / "data")
    for command in (["serve", "--port", "0"], ["demo", "--offline", "--visits", "1"], ["models", "list"]):
        ran = bandit_serve(*command, "--data", folder / "data")
        assert (ran.status, ran.out) == (2, "") or command[0] == "demo"
        assert "chmod go-w" in " ".join(ran.err.split())
    named = bandit_serve("serve", "--port", "0", "--store", "unix:///nowhere", "--data", folder / "data")
    assert (named.status, "chmod go-w" in " ".join(named.err.split())) == (2, True)
    examined = bandit_serve("doctor", "--data", folder / "data")
    assert "chmod go-w" in " ".join(examined.out.split())


@needs_root
@pytest.mark.parametrize("name", ["store.lock", "store.log"])
@pytest.mark.parametrize("fault", ["link", "foreign", "second name", "fifo"])
def test_a_lock_or_log_of_others_is_refused_and_nothing_is_written_through_it(
    folder: Path, name: str, fault: str
) -> None:
    data = own_folder(folder / "data")
    victim = folder / "victim"
    victim.write_bytes(b"precious")
    match fault:
        case "link":
            (data / name).symlink_to(victim)
        case "foreign":
            (data / name).touch()
            os.chown(data / name, STRANGER, STRANGER)
        case "second name":
            os.link(victim, data / name)
        case "fifo":
            os.mkfifo(data / name)
    with pytest.raises(UsageError, match="remove it"):
        PrivateServer.start_or_adopt(data, timeout_s=5.0)
    assert victim.read_bytes() == b"precious"


LISTENER = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(100)
    connection.sendall(b"+PONG\\r\\n$40\\r\\n# Server\\r\\nprocess_id:1\\r\\n")
"""


@needs_root
@pytest.mark.parametrize("linked", [False, True], ids=["in place", "linked"])
def test_a_socket_that_another_user_listens_on_is_not_adopted(folder: Path, linked: bool) -> None:
    """Such a user would receive every reward, and could forge every state."""
    data, lair = own_folder(folder / "data"), folder / "lair"
    lair.mkdir()
    folder.chmod(0o711)
    os.chown(lair, STRANGER, STRANGER)
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER, str(lair / "s"), str(STRANGER)],
        stdout=subprocess.PIPE,
        env=clean_environment(),
        cwd="/",
    ) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"up\n"
            if linked:
                (data / "store.sock").symlink_to(lair / "s")
            else:
                (lair / "s").rename(data / "store.sock")
            with pytest.raises(UsageError, match="symbolic link" if linked else "another user"):
                PrivateServer.start_or_adopt(data, timeout_s=5.0)
        finally:
            stranger.kill()


def test_a_link_to_ones_own_socket_is_refused_too(folder: Path) -> None:
    data = own_folder(folder / "data")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        (data / "store.sock").symlink_to(folder / "s")
        with pytest.raises(UsageError, match="symbolic link"):
            PrivateServer.start_or_adopt(data, timeout_s=5.0)


def test_a_file_is_made_and_written_anew(folder: Path) -> None:
    for content in (b"long content", b"short"):
        with truncated(folder / "f") as file:
            file.write(content)
        assert (folder / "f").read_bytes() == content
    assert (folder / "f").stat().st_mode & 0o777 == 0o600
    (folder / "link").symlink_to(folder / "f")
    with pytest.raises(UsageError, match="symbolic link"):
        truncated(folder / "link")
    with pytest.raises(FileNotFoundError):
        open_own(folder / "none", os.O_RDONLY)
    assert (folder / "f").read_bytes() == b"short"
