"""Results by segment in the terminal."""

from __future__ import annotations

import random
from pathlib import Path

from commands import bandit_serve
from http_calls import new_name, running
from services import ThrowawayService


def test_results_are_split_by_a_field(service: ThrowawayService, tmp_path: Path) -> None:
    name = running(
        service,
        id=new_name(),
        policy={"kind": "fixed_split"},
        metrics=[{"name": "click", "kind": "binary"}],
        attribution={"missing": "ignore", "window": "1h"},
        context=[
            {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
            {"name": "land", "kind": "categorical", "values": ["de", "fr"]},
        ],
        dimensions=["device"],
    )
    chance = random.Random(3)
    requests = [
        {"context": {"device": chance.choice(["ios", "web"]), "land": chance.choice(["de", "fr"])}}
        for _ in range(600)
    ]
    decided = service.call("POST", f"/v1/experiments/{name}/decide/batch", {"requests": requests})
    rewards = [
        {"decision_id": each["decision_id"], "value": float(chance.random() < 0.3)}
        for each in decided.body["responses"]
    ]
    assert service.call("POST", "/v1/rewards", {"rewards": rewards}).body["rejected"] == 0
    where = ("--by", "device", "--data", service.data)
    shown = bandit_serve("experiments", "results", name, *where)
    assert shown.status == 0, shown.err
    for told in ("By device, declared before the start", "ios", "web", "unknown", "Shrunk"):
        assert told in shown.out
    segments = bandit_serve("experiments", "results", name, *where, "--json").document["segments"]
    assert [each["value"] for each in segments["values"]] == ["ios", "web", None]
    assert sum(arm["metrics"]["click"]["n"] for each in segments["values"] for arm in each["arms"]) == 600
    page, both = tmp_path / "page.html", tmp_path / "both.html"
    for path, by in ((page, ()), (both, ("--by", "land"))):
        made = bandit_serve("experiments", "results", name, "--data", service.data, *by, "--html", path)
        assert made.status == 0, made.err
        assert "By device <small>declared before the start</small>" in path.read_text("utf-8")
    assert "By land" not in page.read_text("utf-8")
    assert 'By land <small class="flag">looked up afterwards</small>' in both.read_text("utf-8")
    refused = bandit_serve("experiments", "results", name, "--by", "hour", "--data", service.data)
    assert refused.status == 1
    over_time = bandit_serve("experiments", "results", name, *where, "--over-time")
    assert over_time.status == 2
    assert "leave out --over-time or --by" in over_time.err
