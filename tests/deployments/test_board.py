"""Board of Grafana: of metrics that a service has, answered by a real Prometheus, and as Grafana's types have it."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from certificates import DAY, Authority
from documents import ROOT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from http_calls import running, upload
from prometheus import ThrowawayPrometheus
from services import ThrowawayService
from stores import wait_until
from tenancy import Caller, keys_of, make
from webhook_receiver import WebhookReceiver

from bandit_serve.models import MatrixFactorization
from bandit_serve.server.routes import ROUTE_LABELS
from bandit_serve.training.ratings import synthetic_ratings

GRAFANA = ROOT / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "boards" / "bandit_serve.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
COLUMNS = 24
CHOSEN = {"$__rate_interval": "10s", "$instance": ".+", "$tenant": ".*", "$experiment": ".*"}
"""Values of the board's variables, as Grafana puts them in for "All"."""
RATINGS = synthetic_ratings(seed=5, n_users=60, n_items=80, n_ratings=1_500)
SUFFIXES = ("_bucket", "_count", "_sum")


def expressions(panels: list[dict[str, Any]] = PANELS) -> dict[str, str]:
    """Expressions of all panels by title and letter, with values in place of the variables."""
    return {
        f"{panel['title']} {target['refId']}": _with_values(target["expr"])
        for panel in panels
        for target in panel["targets"]
    }


def _with_values(expression: str) -> str:
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def metrics_of(expression: str) -> set[str]:
    """Metrics that an expression names."""
    plain = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:bandit_serve|process)_\w+|\bup\b", plain))


def unknown(expression: str, families: set[str]) -> set[str]:
    """Metrics of an expression that are of no family that was scraped."""
    return {
        name
        for name in metrics_of(expression) - {"up"}
        if name not in families and not any(name.removesuffix(suffix) in families for suffix in SUFFIXES)
    }


class Traffic:
    """Experiments of a service and of a tenant, and calls that move what is measured of them."""

    def __init__(self, root: Caller, folder: Path) -> None:
        self._root: Any = root
        self._shop: Any = Caller(root.service, keys_of(root, "shop")["admin"])
        wait_until(lambda: self._shop.call("GET", "/v1/experiments").status == 200)
        path = folder / "m.safetensors"
        MatrixFactorization(2, n_epochs=1).fit(RATINGS.users, RATINGS.items, RATINGS.values).save(path)
        assert upload(self._root, "films", path.read_bytes(), {"status": "staged"}).status == 201
        promoted = root.call("POST", "/v1/models/films/versions/v1/status", {"status": "production"})
        assert promoted.status == 200, promoted
        arms = [{"name": name, "model": "films", "version": "v1"} for name in ("control", "other")]
        self._ranked = self._run(self._root, arms=arms, metrics=[{"name": "stars", "kind": "continuous"}])
        contextual = self._run(
            self._root, policy={"kind": "lin_ts"}, context=[{"name": "age", "kind": "numeric"}]
        )
        self._decided = [
            (self._root, contextual, {"context": {"age": 30}}),
            (self._root, self._run(self._root), {}),
        ]
        self._decided.append((self._shop, self._run(self._shop), {}))
        self._number = 0

    def _run(self, caller: Any, **fields: Any) -> str:
        return running(caller, **{"policy": {"kind": "thompson"}, **fields})

    def round(self) -> None:
        """Decides, predicts and counts once in each experiment."""
        row = self._number % len(RATINGS.users)
        self._number += 1
        user = str(RATINGS.users[row])
        for asked in ({"user_id": user, "item_id": str(RATINGS.items[row])}, {"user_id": user, "k": 3}):
            predicted = self._root.call("POST", f"/v1/experiments/{self._ranked}/predict", asked)
            assert predicted.status == 200, predicted
        tokens = [(self._root, predicted.body["decision_id"])]
        for caller, name, body in self._decided:
            decided = caller.call("POST", f"/v1/experiments/{name}/decide", body)
            assert decided.status == 200, decided
            tokens.append((caller, decided.body["decision_id"]))
        for caller, token in tokens:
            rewarded = caller.call("POST", "/v1/rewards", {"decision_id": token, "value": 1.0})
            assert rewarded.status == 200, rewarded


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ThrowawayPrometheus, Traffic]]:
    """A service with all that has figures: TLS, a tenant, webhooks, a model that learns, contexts; and its scrapes."""
    folder = tmp_path_factory.mktemp("board")
    authority, made = Authority(), make(folder / "d", "--scope", "admin")
    certificate = authority.make(life=90 * DAY).write(folder)
    with WebhookReceiver(secret=None) as receiver:
        webhooks = json.dumps([receiver.webhook("winner", "degraded")])
        flags = ("--learners", "films", "--webhooks", webhooks, *certificate)
        service = ThrowawayService(folder / "d", *flags)
        service.tls = authority.trusting()
        with service:
            root = Caller(service, made)
            traffic = Traffic(root, folder)
            with ThrowawayPrometheus(service, keys_of(root, None)["read"].key, authority.pem) as prometheus:
                yield prometheus, traffic


def families(prometheus: ThrowawayPrometheus) -> set[str]:
    """Metrics that were scraped, also those that have no series."""
    return {
        each["metric"] for each in prometheus.ask("targets/metadata", match_target='{job="bandit-serve"}')
    }


def test_every_expression_is_of_metrics_that_there_are_and_gives_data(
    scraped: tuple[ThrowawayPrometheus, Traffic],
) -> None:
    prometheus, traffic = scraped
    known = families(prometheus)
    left = expressions()
    assert len(left) > 50
    for title, expression in left.items():
        assert metrics_of(expression), title
        assert not unknown(expression, known), title
        prometheus.values(expression)

    def all_have_data() -> bool:
        traffic.round()
        for title, expression in list(left.items()):
            if any(map(math.isfinite, prometheus.values(expression))):
                del left[title]
        return not left

    with contextlib.suppress(AssertionError):
        wait_until(all_have_data)
    assert not left, "expressions without data"


def test_a_metric_of_another_name_is_found(scraped: tuple[ThrowawayPrometheus, Traffic]) -> None:
    prometheus, _ = scraped
    known = families(prometheus)
    for name in sorted(set().union(*map(metrics_of, expressions().values())) - {"up"}):
        assert not unknown(f"sum({name})", known)
        assert unknown(f"sum({name}_of_before)", known) == {f"{name}_of_before"}
    assert prometheus.values("sum(bandit_serve_pending_of_before)") == []


def test_variables_have_values(scraped: tuple[ThrowawayPrometheus, Traffic]) -> None:
    prometheus, traffic = scraped
    traffic.round()
    asked = [each for each in BOARD["templating"]["list"] if each["type"] == "query"]
    assert {f"${each['name']}" for each in asked} == set(CHOSEN) - {"$__rate_interval"}
    for each in asked:
        parts = re.fullmatch(r"label_values\((.*), (\w+)\)", each["query"]["query"])
        assert parts is not None
        (series, label) = parts.groups()
        found = prometheus.ask(f"label/{label}/values", **{"match[]": _with_values(series)})
        assert found, each["name"]


def test_the_rules_are_evaluated(scraped: tuple[ThrowawayPrometheus, Traffic]) -> None:
    """The file of the alerts, as Prometheus reads it, over what a service has."""
    prometheus, _ = scraped

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()))
    known = families(prometheus)
    for rule in rules():
        assert rule["health"] == "ok", rule
        assert not unknown(rule["query"], known), rule["name"]


def test_routes_of_the_board_are_routes() -> None:
    named = re.findall(r'route="([^"]+)"', " ".join(expressions().values()))
    assert named
    assert set(named) <= set(ROUTE_LABELS)


def test_panels_have_their_places() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"], "two panels are in one place"
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in PANELS)


def test_the_board_is_as_the_types_of_grafana_have_it() -> None:
    """What its types do not know is lost on the way through them: at any depth, also in the options of a panel."""
    register_default_plugins()
    assert lost(BOARD) == set()
    wrong: dict[str, Any] = json.loads(json.dumps(BOARD))
    wrong["panels"][1]["options"]["colourMode"] = "value"
    wrong["panels"][1]["targets"][0]["expression"] = "up"
    assert lost(wrong) == {"panels.1.options.colourMode", "panels.1.targets.0.expression"}


def lost(board: dict[str, Any]) -> set[str]:
    """Places in a board of which Grafana's types know nothing, or have something else."""
    kept = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    return set(_differences(board, kept, ""))


def _differences(given: Any, kept: Any, place: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from _differences(value, kept.get(name), f"{place}.{name}" if place else name)
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _differences(one, other, f"{place}.{number}")
    elif given != kept:
        yield place


def test_grafana_of_the_compose_file_is_given_the_board_and_its_figures() -> None:
    composed = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    assert "./grafana:/etc/grafana/provisioning:ro" in composed["grafana"]["volumes"]
    (provider,) = yaml.safe_load((GRAFANA / "dashboards" / "boards.yaml").read_text())["providers"]
    folder = Path(provider["options"]["path"]).relative_to("/etc/grafana/provisioning")
    assert [each.name for each in (GRAFANA / folder).iterdir()] == ["bandit_serve.json"]
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (chosen,) = (each["current"] for each in BOARD["templating"]["list"] if each["type"] == "datasource")
    assert (chosen["value"], chosen["text"]) == (source["uid"], source["name"])
    assert source["url"].removeprefix("http://").partition(":")[0] in composed
    scrapes = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrapes["scrape_interval"]
