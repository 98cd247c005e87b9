"""`bandit-serve plan`: from flags or an experiment to a table, JSON and a plot."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import bandit_serve
from http_calls import decide_many, new_name, reward_many, running
from services import ThrowawayService

RATE = ("plan", "--rate", "0.1", "--effect", "5%", "--traffic", "4000")


def test_a_table_says_how_long_each_test_takes() -> None:
    ran = bandit_serve(*RATE, "--correlation", "0.6")
    assert (ran.status, ran.err) == (0, "")
    assert "rate 0.1, 4,000 a day, to find +0.005 (+5 %): power 0.8, level 0.05, 2 arms" in ran.out
    for text in ("fixed end", "any time", "horizon, CUPED", "115,5", "28.9", "expected_samples"):
        assert text in ran.out
    assert max(map(len, ran.out.splitlines()[:8])) <= 80


def test_json_is_what_the_route_answers(service: ThrowawayService) -> None:
    body = {"baseline": {"mean": 20.5, "sd": 31.0}, "days": 14, "traffic": 4_000, "arms": 3, "looks": 8}
    ran = bandit_serve(
        "plan",
        "--mean",
        "20.5",
        "--sd",
        "31",
        "--days",
        "14",
        "--traffic",
        "4000",
        "--arms",
        "3",
        "--looks",
        "8",
        "--json",
    )
    assert ran.document == service.call("POST", "/v1/plan", body).body
    assert ran.document["horizon"]["looks"] == 8


def test_an_experiment_says_what_it_still_takes(service: ThrowawayService) -> None:
    name = running(service, policy={"kind": "fixed_split"}, attribution={"missing": "ignore", "window": "1h"})
    tokens = decide_many(service, name, [new_name("u") for _ in range(400)])["decision_ids"]
    reward_many(service, tokens, [float(i % 4 == 0) for i in range(400)])
    asked = ("plan", name, "--effect", "10%", "--traffic", "1000", "--data", service.data)
    ran = bandit_serve(*asked)
    assert (ran.status, ran.err) == (0, "")
    assert "more days at this traffic to see" in ran.out
    assert "To go" in ran.out
    assert bandit_serve(*asked, "--json").document["analysed"] == 400
    assert bandit_serve("plan", "nobody", "--effect", "10%", "--data", service.data).status == 1


def test_the_plot_is_a_picture_of_all_tests(tmp_path: Path) -> None:
    plot = tmp_path / "plan.svg"
    ran = bandit_serve(*RATE, "--plot", plot)
    assert ran.status == 0, ran.err
    assert f"Plot: {plot}" in ran.out
    root = ElementTree.fromstring(plot.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for name, days in (("fixed", "28.9"), ("anytime", "47.9"), ("horizon", "29.6")):
        assert f"{name} {days} days" in texts
    assert "days" in texts
    assert bandit_serve(*RATE[:5], "--plot", plot).status == 0
    assert "observations" in plot.read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rate", "0.1"], "expected an effect or days"),
        (["--effect", "5%"], "expected a baseline or an experiment"),
        (["--rate", "0.1", "--effect", "five"], "--effect must be a number, or a percentage"),
        (["--rate", "0.1", "--effect", "5%x"], "--effect must be a number, or a percentage"),
        (["--rate", "1.5", "--effect", "5%"], "baseline.rate"),
        (["--rate", "0.1", "--days", "5"], "traffic: expected observations a day"),
        (
            ["--rate", "0.1", "--effect", "5%", "--plot", "plan.png"],
            "--plot writes an SVG file, not plan.png",
        ),
    ],
)
def test_wrong_usage_is_said(flags: list[str], says: str) -> None:
    ran = bandit_serve("plan", *flags)
    assert ran.status == 2
    assert says in ran.err
