"""Logs and snapshots of an earlier build give the same folds with this one, and the same results.

`support/write_stored.py` writes such files.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from services import ThrowawayService
from stored_folds import agrees, fold_all, samples_in
from stored_keys import content_of, restore, stored_files
from stores import ThrowawayStore
from tenancy import Caller, Made

from bandit_serve.log.owner import name_of
from bandit_serve.store.keys import COMMON, OF_TENANT

FILES = stored_files()


def test_there_are_such_files() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_logs_and_snapshots_give_what_they_gave(path: Path) -> None:
    with ThrowawayStore(appendfsync="no") as store:
        with store.client() as client:
            expected = restore(path, client)
        folded = asyncio.run(fold_all(store.url))
        assert folded.keys() == expected.keys()
        for owner, about in expected.items():
            if folded[owner].get("scored_otherwise"):
                about["results"] = samples_in(about["results"])
            assert agrees(folded[owner], about), (owner, folded[owner])
        assert sum(each.get("snapshots", 0) for each in expected.values()) >= len(expected) - 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_service_goes_on_from_them(path: Path, tmp_path: Path) -> None:
    with ThrowawayStore(appendfsync="no") as store:
        with store.client() as client:
            expected = restore(path, client)
        with ThrowawayService(tmp_path, "--artifacts", "store", store=store.url) as running:
            assert running.call("GET", "/health/ready").body == {"status": "ready"}
            service = Caller(running, Made("", content_of(path).get("key", "")))
            predicted = service.call("POST", "/v1/models/films/predict", {"user_id": "1", "item_id": "1"})
            assert predicted.status == 200, predicted
            listed = service.call("GET", "/v1/experiments").body["experiments"]
            owners = {owner for owner in expected if OF_TENANT not in owner and owner != COMMON}
            assert {about["id"] for about in listed} == set(map(name_of, owners))
            for about in listed:
                answer = service.call("GET", f"/v1/experiments/{about['id']}/results")
                assert answer.status == 200, answer
                assert any(arm["exposures"] for arm in answer.body["arms"])
                names = [field["name"] for field in about["context"]]
                context = {"context": {"hour": 3}} if "hour" in names else {}
                asked = (
                    ("predict", {"user_id": "1", "k": 1}) if "mode" in about else ("decide", {"unit": "u"})
                )
                body = {**asked[1], **context}
                decided = service.call("POST", f"/v1/experiments/{about['id']}/{asked[0]}", body)
                assert decided.status == 200, decided
