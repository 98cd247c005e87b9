"""Deployments as callers see them, over HTTP and on the command line."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.durations import Duration
from bandit_serve.base.names import TEXT_END, Name
from bandit_serve.experiments.spec import Ramp

MAX_VARIABLES = 256
MAX_LOG_LINES = 10_000

Environment = Literal["staging", "production", "shadow"]
DeploymentName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,127}" + TEXT_END,
        description="2 to 128 letters, digits, `.`, `_`, `-`",
    ),
]
ImageName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}" + TEXT_END, description="name of an image")
]
Memory = Annotated[
    str, Meta(pattern=r"^[1-9][0-9]{0,9}[kmgKMG]?" + TEXT_END, description='bytes, as "512m" or "2g"')
]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Cpus = Annotated[float, Meta(gt=0.0, le=1_024.0)]
Text = Annotated[str, Meta(max_length=32_768)]


class DeploymentView(Struct, frozen=True):
    """Deployment: a container, where it is reached, and how it is.

    `status` is the engine's: `running`, `restarting`, `exited` …; `starting` or `stopping` while a command is at work,
    and `unfinished` where that command has died and this one could not end its work. `health` is that of the image's
    own check, `none` without one. `ready` says whether `/health/ready` answered just now; it is left out where nobody
    asked. `exit_code` is null while the container runs.
    """

    name: str
    container_id: str
    image: str
    status: str
    health: str
    url: str
    exit_code: int | None
    ready: bool | UnsetType = UNSET
    model: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    environment: Environment | UnsetType = UNSET


class DeploymentList(Struct, frozen=True):
    deployments: list[DeploymentView]


class DeploymentLogs(Struct, frozen=True):
    lines: list[str]


class BuiltImage(Struct, frozen=True):
    """Image that was built. `size` is in bytes, with its base; `sha256` is of the model's file inside."""

    tag: str
    image: str
    size: int
    model: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    sha256: str | UnsetType = UNSET


class Serving(Struct, frozen=True, forbid_unknown_fields=True):
    """Version that a deployment serves, and where to in the registry: its status follows the deployment."""

    model: Name
    version: Name
    environment: Environment = "staging"


class DeploymentRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Wanted deployment. It is published at `host`:`port`, and has `wait` to become ready."""

    name: DeploymentName
    tag: ImageName
    port: Port
    host: Annotated[str, Meta(min_length=1, max_length=255)] = "127.0.0.1"
    env: Annotated[dict[str, Text], Meta(max_length=MAX_VARIABLES)] = {}
    memory: Memory | None = None
    cpus: Cpus | None = None
    wait: Duration = "60s"
    serving: Serving | None = None


class BuildRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Image to be built, of the package that runs; with the model of a version inside if both are named."""

    tag: ImageName
    base: ImageName | None = None
    network: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}" + TEXT_END)] | None = None
    model: Name | None = None
    version: Name | None = None


class StopDeploymentRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """End of a deployment: how long it may take to answer what it has accepted."""

    timeout: Duration = "30s"


class CanaryRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Version that is to get a growing part of an experiment's traffic.

    `guardrail` names a metric and the loss that it allows: `error=0.05`, in its units, or `latency_ms=20%` of control's
    mean. The arm that is shown to lose more is paused. Without it `error=0.05` watches the arm, or the
    guardrail `error` that the experiment has, beside its others.
    """

    model: Name
    version: Name
    experiment: Name
    arm: Name | None = None
    ramp: Ramp = Ramp(0.01, "1h")
    guardrail: Annotated[str, Meta(max_length=256)] | UnsetType = UNSET
    environment: Environment | None = None


class Canary(Struct, frozen=True):
    """Arm that a canary is, in its experiment. `paused` once its guardrail has paused it."""

    experiment: str
    arm: str
    model: str
    version: str
    guardrail: str
    paused: bool
