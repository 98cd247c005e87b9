"""Writes what this build stores of promotions: `python tests/support/write_stored_promotions.py FILE.keys`.

One reaches production by all steps, one is stopped and one cancelled. test_stored_kinds.py says when another is needed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from http_calls import experiment
from promoting import at_step, begin, ended, make_model, promotion_of
from services import ThrowawayService
from stored_folds import fold_all
from stored_keys import save
from stores import ThrowawayStore, wait_until
from write_stored_kinds import CLICK, IGNORED, require, visit

from bandit_serve.log.fold import POLICY_FOLD, REGISTRY_FOLD, RESULTS_FOLD
from bandit_serve.store.keys import COMMON, Keys

RAMPED = "ramped"
ASK = {"user_id": "1", "item_id": "1"}


def promote(service: ThrowawayService, folder: Path) -> None:
    for model in ("films", "books"):
        make_model(service, folder, model)
    arms = [{"name": "control", "model": "films", "version": "v1"}]
    about = experiment(id=RAMPED, arms=arms, metrics=[CLICK], attribution=IGNORED)
    require(service.call("POST", "/v1/experiments", about))
    require(service.call("POST", f"/v1/experiments/{RAMPED}/start"))
    plan = {
        "offline": "rmse < current.rmse",
        "shadow": {"requests": 10, "gate": "errors == 0"},
        "ramp": {"steps": [0.2, 0.5], "each": "1s", "guardrails": ["error=5%"]},
        "experiment": RAMPED,
    }
    id = begin(service, "films", plan)
    at_step(service, "films", id, "shadow")
    for _ in range(12):
        require(service.call("POST", "/v1/models/films/predict", ASK))
    at_step(service, "films", id, "ramp")

    def is_over() -> bool:
        visit(service, RAMPED, 50, lambda number, arm: float(number % 2))
        return bool(promotion_of(service, "films", id)["state"] == "production")

    wait_until(is_over, 60)
    require(
        service.call(
            "POST", "/v1/models/books/versions/v2/status", {"status": "shadow", "reason": "to have it"}
        )
    )
    ended(service, "books", begin(service, "books", {"offline": "rmse > 2"}))
    id = begin(service, "books", {"shadow": {"requests": 10, "gate": "errors == 0"}})
    at_step(service, "books", id, "shadow")
    require(service.call("POST", f"/v1/models/books/promotions/{id}/cancel", {"reason": "to have it"}))


def wait_for_snapshots(store: ThrowawayStore) -> None:
    wanted = [Keys().snapshots(RAMPED, fold) for fold in (POLICY_FOLD, RESULTS_FOLD)]
    registry = Keys().snapshots(COMMON, REGISTRY_FOLD)
    with store.client() as client:
        wait_until(lambda: all(client.exists(key) for key in wanted), 60)
        (last, _), *_ = client.xrevrange(Keys().log(COMMON), count=1)
        wait_until(lambda: client.hexists(registry, last), 60)


def main() -> None:
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, ThrowawayStore() as store:
        flags = ("--artifacts", "store", "--snapshot-every", "2s")
        with ThrowawayService(Path(folder), *flags, store=store.url, workers=2) as service:
            promote(service, Path(folder))
            wait_for_snapshots(store)
        with store.client() as client:
            save(path, client, {})
        expected = asyncio.run(fold_all(store.url))
        with store.client() as client:
            save(path, client, expected)
    print(f"{path}: {path.stat().st_size} bytes, {len(expected)} logs")


if __name__ == "__main__":
    main()
