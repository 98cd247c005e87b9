"""Manifests for Kubernetes: valid by its own schemas, and as safe as the service is."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml
from commands import bandit_serve

from bandit_serve.deployments.manifests import (
    OWN_DATA,
    PORT,
    Wanted,
    as_yaml,
    grace_s,
    manifests,
)
from bandit_serve.errors import UsageError
from bandit_serve.server.routes import ROUTES
from bandit_serve.settings import Settings, load_settings

VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
PLAIN = Wanted("shop", "registry.example/bandit-serve:0.1.0", 3, "redis://store:6379/0")
SECRET = PLAIN._replace(store="rediss://user:hunter22@store:6379/0", namespace="apps")


def by_kind(wanted: Wanted) -> dict[str, Any]:
    documents = list(yaml.safe_load_all(as_yaml(manifests(wanted))))
    kinds = {document["kind"]: document for document in documents}
    assert len(kinds) == len(documents)
    return kinds


def pod_of(wanted: Wanted) -> dict[str, Any]:
    pod: dict[str, Any] = by_kind(wanted)["Deployment"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", [PLAIN, SECRET], ids=["plain", "with a password"])
def test_they_are_valid(wanted: Wanted, version: str) -> None:
    for document in manifests(wanted):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_fault_would_be_found() -> None:
    wrong = by_kind(PLAIN)["Deployment"]
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_what_there_is() -> None:
    assert list(by_kind(PLAIN)) == ["Service", "PodDisruptionBudget", "Deployment"]
    assert list(by_kind(SECRET)) == ["Secret", "Service", "PodDisruptionBudget", "Deployment"]
    assert {each["metadata"].get("namespace") for each in manifests(PLAIN)} == {None}
    assert {each["metadata"]["namespace"] for each in manifests(SECRET)} == {"apps"}


def test_selectors_find_the_pods_of_this_deployment_alone() -> None:
    kinds = by_kind(PLAIN)
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/instance"] == "shop"
    (port,) = kinds["Service"]["spec"]["ports"]
    assert port["targetPort"] == "http"


def test_a_pod_may_do_little() -> None:
    pod = pod_of(PLAIN)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"] == "1Gi"
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/data", "/tmp"}
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }


def test_probes_ask_routes_that_need_no_key() -> None:
    (container,) = pod_of(PLAIN)["containers"]
    open_routes = {route.path for route in ROUTES if route.needs == "nothing"}
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["path"] for probe in probes} == open_routes
    assert {probe["port"] for probe in probes} == {"http"}
    assert container["ports"] == [{"name": "http", "containerPort": PORT, "protocol": "TCP"}]


def test_the_settings_are_ours_and_a_pod_has_time_to_end() -> None:
    pod = pod_of(PLAIN)
    environ = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    settings = load_settings({}, environ=environ)
    assert (settings.store, settings.host, settings.port) == (PLAIN.store, "0.0.0.0", PORT)
    assert (settings.artifacts, settings.log_format, settings.data) == ("store", "json", OWN_DATA)
    assert pod["terminationGracePeriodSeconds"] == grace_s(settings) > settings.seconds("drain")
    assert grace_s(Settings(drain="2m")) > 120


def test_a_password_is_in_a_secret_and_nowhere_else() -> None:
    kinds = by_kind(SECRET)
    assert kinds["Secret"]["stringData"] == {"url": SECRET.store}
    environ = {each["name"]: each for each in pod_of(SECRET)["containers"][0]["env"]}
    key = environ["BANDIT_SERVE_STORE"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": kinds["Secret"]["metadata"]["name"], "key": "url"}
    del kinds["Secret"]
    assert "hunter22" not in str(kinds)


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"name": "Shop"}, "--name"),
        ({"name": "1shop"}, "--name"),
        ({"name": "a" * 54}, "--name"),
        ({"name": "shop\n"}, "--name"),
        ({"image": ""}, "--image"),
        ({"image": "a b"}, "--image"),
        ({"replicas": 0}, "--replicas"),
        ({"replicas": 1_001}, "--replicas"),
        ({"namespace": "a/b"}, "--namespace"),
        ({"memory": "1G"}, "--memory"),
        ({"memory": "0Mi"}, "--memory"),
        ({"cpu": "0"}, "--cpu"),
        ({"cpu": "many"}, "--cpu"),
        ({"store": "unix:///s"}, "--store"),
        ({"store": "http://s"}, "store"),
    ],
)
def test_what_no_cluster_would_take_is_refused(changes: dict[str, Any], about: str) -> None:
    with pytest.raises(UsageError, match=about):
        manifests(PLAIN._replace(**changes))


@pytest.mark.parametrize("cpu", ["2", "500m", "1.5", "0.25", ".5"])
def test_processors_may_be_written_so(cpu: str) -> None:
    for document in manifests(PLAIN._replace(cpu=cpu)):
        kubernetes_validate.validate(document, "1.34", strict=True)


@pytest.mark.parametrize("store", ["redis+cluster://a:1,b:2", "redis+sentinel://a:1,b:2/bandits"])
def test_a_store_of_any_kind_is_handed_on(store: str) -> None:
    assert store in yaml.safe_dump_all(manifests(PLAIN._replace(store=store)), width=1_000)
    secret = manifests(PLAIN._replace(store=store.replace("://", "://:hidden@")))
    assert [document["kind"] for document in secret if "hidden" in str(document)] == ["Secret"]


def test_the_command_prints_them() -> None:
    flags = ("--name", "shop", "--image", PLAIN.image, "--replicas", "3")
    ran = bandit_serve("deploy", "manifests", *flags, "--store", PLAIN.store)
    assert list(yaml.safe_load_all(ran.out)) == manifests(PLAIN)
    by_variable = bandit_serve("deploy", "manifests", *flags, environment={"BANDIT_SERVE_STORE": PLAIN.store})
    assert by_variable.out == ran.out
    wrong = bandit_serve("deploy", "manifests", "--name", "Shop", "--image", "i", "--store", PLAIN.store)
    assert (wrong.status, wrong.out) == (2, "")
