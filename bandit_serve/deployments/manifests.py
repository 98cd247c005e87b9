"""Manifests for Kubernetes: a Deployment of the service with its Service, its PodDisruptionBudget and, where the
store's URL has a password, a Secret.

All pods share one store, which keeps the model files, too: a pod has nothing of its own that outlasts it.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import yaml

from bandit_serve.errors import UsageError
from bandit_serve.settings import PREFIX, Settings
from bandit_serve.store import parse_store_url

PORT = 8000
USER = 10_001
"""User and group of the service in its image."""
DATA, TMP = "/data", "/tmp"
# A volume belongs to root and may be written to by its group. The service wants a folder of its own.
OWN_DATA = f"{DATA}/service"
MARGIN_S = 15.0
"""What a pod may take to end beside waiting for requests and connections."""
STARTS_IN_S = 120
MAX_REPLICAS = 1_000

# A DNS label (RFC 1123), as the names of a Service and of its pods are.
_name = re.compile(r"[a-z]([a-z0-9-]{0,51}[a-z0-9])?")
_image = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,254}")
_memory = re.compile(r"[1-9][0-9]{0,6}(Mi|Gi)")
_cpu = re.compile(r"[1-9][0-9]{0,4}m?|0?\.[0-9]{1,3}|[1-9][0-9]{0,2}\.[0-9]{1,3}")

Manifest = dict[str, Any]


class Wanted(NamedTuple):
    """What is to run: `memory` is the limit of a pod (`512Mi`), `cpu` what it asks for (`500m`, `2`)."""

    name: str
    image: str
    replicas: int
    store: str
    namespace: str | None = None
    memory: str = "1Gi"
    cpu: str = "500m"

    def checked(self) -> Wanted:
        """Returns itself; raises `UsageError` for what no cluster would take, or a store that is none."""
        wrong = [
            (
                "name",
                self.name,
                _name,
                "lower-case letters, digits and hyphens, 53 at most, from a letter on",
            ),
            ("image", self.image, _image, "an image, as registry.example/bandit-serve:0.1.0"),
            ("memory", self.memory, _memory, "a whole number of Mi or Gi, as 512Mi"),
            ("cpu", self.cpu, _cpu, "processors, as 500m or 2"),
        ]
        for option, value, form, expected in wrong:
            if form.fullmatch(value) is None:
                raise UsageError(f"--{option}: expected {expected}.")
        if self.namespace is not None and _name.fullmatch(self.namespace) is None:
            raise UsageError(
                "--namespace: expected lower-case letters, digits and hyphens, from a letter on."
            )
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise UsageError(f"--replicas: expected 1 to {MAX_REPLICAS}.")
        if parse_store_url(self.store).scheme == "unix":
            raise UsageError(
                "--store: pods on several machines share a store over the network: any but unix://."
            )
        return self


def manifests(wanted: Wanted) -> list[Manifest]:
    """Makes the manifests, in the order in which they are to be applied. Raises `UsageError` as `Wanted.checked`."""
    wanted = wanted.checked()
    secret = [_secret(wanted)] if parse_store_url(wanted.store).password is not None else []
    return [*secret, _service(wanted), _budget(wanted), _deployment(wanted, from_secret=bool(secret))]


def as_yaml(documents: list[Manifest]) -> str:
    """Writes manifests as one YAML stream."""
    written: str = yaml.safe_dump_all(documents, sort_keys=False, explicit_start=True)
    return written


def grace_s(settings: Settings) -> int:
    """Time that a pod has to end: more than it waits for requests under way and then for idle connections."""
    return math.ceil(settings.seconds("drain") + settings.seconds("idle_grace") + MARGIN_S)


def _metadata(wanted: Wanted, name: str | None = None) -> Manifest:
    metadata: Manifest = {"name": name or wanted.name, "labels": _labels(wanted)}
    return metadata if wanted.namespace is None else {**metadata, "namespace": wanted.namespace}


def _labels(wanted: Wanted) -> Manifest:
    return {**_selector(wanted), "app.kubernetes.io/part-of": "bandit-serve"}


def _selector(wanted: Wanted) -> Manifest:
    return {"app.kubernetes.io/name": "bandit-serve", "app.kubernetes.io/instance": wanted.name}


def _secret(wanted: Wanted) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(wanted, f"{wanted.name}-store"),
        "type": "Opaque",
        "stringData": {"url": wanted.store},
    }


def _service(wanted: Wanted) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(wanted),
        "spec": {
            "type": "ClusterIP",
            "selector": _selector(wanted),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _budget(wanted: Wanted) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(wanted),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(wanted)}},
    }


def _deployment(wanted: Wanted, *, from_secret: bool) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(wanted),
        "spec": {
            "replicas": wanted.replicas,
            "selector": {"matchLabels": _selector(wanted)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": _labels(wanted)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": grace_s(Settings()),
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "fsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": _selector(wanted)},
                        }
                    ],
                    "containers": [_container(wanted, from_secret=from_secret)],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }


def _container(wanted: Wanted, *, from_secret: bool) -> Manifest:
    key = {"secretKeyRef": {"name": f"{wanted.name}-store", "key": "url"}}
    store = {"valueFrom": key} if from_secret else {"value": wanted.store}
    settings = {
        "HOST": "0.0.0.0",
        "PORT": str(PORT),
        "DATA": OWN_DATA,
        "ARTIFACTS": "store",
        "LOG_FORMAT": "json",
    }
    return {
        "name": "bandit-serve",
        "image": wanted.image,
        "args": ["serve"],
        "env": [
            {"name": f"{PREFIX}STORE", **store},
            *({"name": f"{PREFIX}{name}", "value": value} for name, value in settings.items()),
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": _probe("live", periodSeconds=2, failureThreshold=STARTS_IN_S // 2),
        "livenessProbe": _probe("live", periodSeconds=10, timeoutSeconds=5, failureThreshold=6),
        "readinessProbe": _probe("ready", periodSeconds=5, timeoutSeconds=3, failureThreshold=2),
        "resources": {
            "requests": {"cpu": wanted.cpu, "memory": wanted.memory},
            "limits": {"memory": wanted.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": DATA}, {"name": "tmp", "mountPath": TMP}],
    }


def _probe(what: str, **times: int) -> Manifest:
    return {"httpGet": {"path": f"/health/{what}", "port": "http"}, **times}
