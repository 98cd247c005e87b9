"""Bundle of an image at the start of its service: registered and served, or refused with a sentence, store or none."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from commands import bandit_serve
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.deployments.bundle import LIST, Bundled
from bandit_serve.models import MatrixFactorization

RATED = [(f"u{i % 9}", f"i{i % 11}", float(i % 5)) for i in range(99)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return made(tmp_path / "bundle", seed=1)


def made(folder: Path, seed: int) -> Path:
    folder.mkdir()
    users, items, ratings = zip(*RATED, strict=True)
    MatrixFactorization(n_factors=2, seed=seed, n_epochs=2).fit(users, items, ratings).save(
        folder / "m.model"
    )
    sha256 = hashlib.sha256((folder / "m.model").read_bytes()).hexdigest()
    about = Bundled("ranker", "v1", "m.model", sha256, "matrix_factorization")
    (folder / LIST).write_bytes(msgspec.json.encode(about))
    return folder


@pytest.fixture
def away() -> Iterator[ThrowawayStore]:
    """A store that is not there yet."""
    store = ThrowawayStore(tcp=True)
    yield store
    store.__exit__(None, None, None)


def refused(data: Path, bundle: Path, store: str) -> str:
    """Starts a service that can not serve its bundle, and returns what it said at its end."""
    done = bandit_serve("serve", "--data", data, "--port", "0", "--bundle", bundle, "--store", store)
    assert done.status != 0
    return done.out + done.err


def test_a_bundle_is_in_production_and_stays_what_it_is(
    tmp_path: Path, bundle: Path, store: ThrowawayStore
) -> None:
    for data in ("one", "two"):
        with ThrowawayService(tmp_path / data, "--bundle", str(bundle), store=store.url) as service:
            model = service.call("GET", "/v1/models/ranker").body
            assert [(each["version"], each["status"]) for each in model["versions"]] == [("v1", "production")]
            assert model["history"][-1]["reason"] == "It came with the image."
            answer = service.call("POST", "/v1/models/ranker/predict", {"user_id": "u1", "item_id": "i1"})
            assert answer.status == 200, answer.body
    said = refused(tmp_path / "three", made(tmp_path / "other", seed=2), store.url)
    assert "The registry has another version 'v1' of 'ranker' than this image." in said


@pytest.mark.parametrize("harm", ["cut", "none", "list"])
def test_a_damaged_bundle_is_refused(tmp_path: Path, bundle: Path, store: ThrowawayStore, harm: str) -> None:
    if harm == "cut":
        with (bundle / "m.model").open("r+b") as file:
            file.truncate(100)
    elif harm == "none":
        (bundle / "m.model").unlink()
    else:
        (bundle / LIST).write_text("{")
    said = refused(tmp_path / "data", bundle, store.url)
    assert re.search("SHA-256 differs|can not be read|is no bundle", said), said
    with ThrowawayService(tmp_path / "data", store=store.url) as service:
        assert service.call("GET", "/v1/models").body["models"] == []


def test_a_service_waits_for_a_store_that_comes(tmp_path: Path, bundle: Path, away: ThrowawayStore) -> None:
    service = ThrowawayService(tmp_path / "data", "--bundle", str(bundle), store=away.url)
    starting = threading.Thread(target=service.start)
    starting.start()
    wait_until(lambda: "waiting for the store" in "".join(service.output))
    away.start()
    starting.join()
    with contextlib.ExitStack() as ending:
        ending.callback(service.stop)
        assert service.call("GET", "/v1/models/ranker").body["versions"][0]["status"] == "production"


def test_a_service_without_its_store_ends_and_says_why(
    tmp_path: Path, bundle: Path, away: ThrowawayStore
) -> None:
    said = refused(tmp_path / "data", bundle, away.url)
    assert said.count("waiting for the store") == 4
    assert str(away.port) in said.splitlines()[-1]
