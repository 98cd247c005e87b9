"""Model files that several machines share: under a URL, and in the store."""

import hashlib

import pytest
from commands import bandit_serve, save_model
from http_calls import new_name, upload
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.errors import InvalidArtifact, NotFound, StoreUnavailable, TooLarge, UsageError
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.remote import FsspecRemote
from bandit_serve.store import files
from bandit_serve.store.files import StoreFiles


@pytest.fixture(params=["fsspec", "store"])
def remote(request, tmp_path):
    if request.param == "fsspec":
        pytest.importorskip("fsspec")
        yield FsspecRemote(f"file://{tmp_path}/shared/models")
    else:
        with ThrowawayStore() as store:
            yield StoreFiles(store.url, "ns")


def test_what_one_machine_put_another_opens(remote, tmp_path):
    here, there = (ArtifactStore(tmp_path / name, remote=remote) for name in ("here", "there"))
    content = save_model(tmp_path / "m").read_bytes()
    sha256, _ = here.put(content)
    assert there.open(sha256).sha256 == sha256
    assert [path.name for path in there.root.iterdir()] == [f"{sha256}.safetensors"]
    assert here.put(content) == (sha256, len(content))
    here.delete(sha256)
    assert there.open(sha256).sha256 == sha256
    with pytest.raises(NotFound):
        ArtifactStore(tmp_path / "third", remote=remote).open(sha256)
    with pytest.raises(NotFound):
        there.open("0" * 64)


def test_what_is_not_what_it_is_named_is_refused(remote, tmp_path):
    false = hashlib.sha256(b"another").hexdigest()
    remote.send(false, save_model(tmp_path / "m"))
    store = ArtifactStore(tmp_path / "here", remote=remote)
    with pytest.raises(InvalidArtifact, match="does not match"):
        store.open(false)
    assert list(store.root.iterdir()) == []


def test_a_store_takes_large_files_in_chunks_and_none_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK_BYTES", 100)
    with ThrowawayStore() as server:
        remote = StoreFiles(server.url, "ns")
        path = save_model(tmp_path / "m")
        remote.send("a" * 64, path)
        with open(tmp_path / "back", "wb") as back:
            assert remote.fetch("a" * 64, back)
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
        with pytest.raises(TooLarge):
            remote.send("b" * 64, path)
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable):
        remote.send("c" * 64, path)


def test_a_place_that_is_none_is_refused():
    with pytest.raises(UsageError, match="can not be kept"):
        FsspecRemote("nosuchprotocol://x")


@pytest.mark.parametrize("where", ["store", "fsspec"])
def test_a_service_serves_what_another_registered(where, tmp_path):
    with ThrowawayStore() as server:
        flag = "store" if where == "store" else f"file://{tmp_path}/models"
        services = [
            ThrowawayService(tmp_path / name, "--artifacts", flag, store=server.url)
            for name in ("one", "two")
        ]
        with services[0] as one, services[1] as two:
            model = new_name("model")
            made = upload(one, model, save_model(tmp_path / "m").read_bytes(), {"status": "staged"})
            assert made.status == 201
            ask = {"user_id": "0", "item_id": "0"}
            answers = [
                service.call("POST", f"/v1/models/{model}/versions/v1/predict", ask).body["prediction"]
                for service in (one, two)
            ]
            assert answers[0] == answers[1] == 2.0
        third = ("--data", tmp_path / "three", "--artifacts", flag, "--store", server.url)
        examined = bandit_serve("doctor", *third)
        assert "1 version has its artifact" in examined.out
        if where == "fsspec":
            (file,) = (tmp_path / "models").glob("*.safetensors")
            file.unlink()
            examined = bandit_serve("doctor", "--data", tmp_path / "four", *third[2:])
            assert "The artifact is not there" in examined.out
