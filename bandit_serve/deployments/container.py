"""Container of a deployment: how it is made, what it says of itself, and waiting until it is ready."""

from __future__ import annotations

import http.client
import ipaddress
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from msgspec import UNSET

from bandit_serve.api.deployments import DeploymentRequest, DeploymentView, Environment
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.deployments.under_way import is_abandoned, name_during, under_way
from bandit_serve.errors import Conflict, DeploymentFailed, FieldError, InvalidInput, NotFound
from bandit_serve.settings import PREFIX

PORT = "8000/tcp"
LABEL = "bandit_serve.deployment"
TAG, URL, DATA, REGISTRY = (f"bandit_serve.{each}" for each in ("tag", "url", "data", "registry"))
MODEL, VERSION, ENVIRONMENT = (f"{LABEL}.{each}" for each in ("model", "version", "environment"))
# So that no log fills a disk.
LOGS = {"max-size": "10m", "max-file": "3"}
MAX_PROCESSES = 4_096
POLL_S = 0.1
PROBE_S = 2.0
MAX_REASON_LINES = 3
MIN_MEMORY_BYTES = 6 * 2**20
# Engines have no code for it.
TAKEN = ("port is already allocated", "address already in use")
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

_volume = re.compile(r"(?P<source>[^:\x00]+):(?P<place>/[^:\x00]*)(:(?P<mode>ro|rw))?")


class Volume(NamedTuple):
    """Directory of the host, or named volume of the engine, and its place in the container."""

    source: str
    place: str
    mode: str = "rw"

    @classmethod
    def parse(cls, text: str) -> Volume:
        """Volume of `SRC:/data`; raises `InvalidInput`."""
        match = _volume.fullmatch(text)
        if match is None:
            detail = "expected SRC:/data, a directory or the name of a volume and its place in the container"
            raise InvalidInput(f"--volume: {detail}.", [FieldError("volume", detail)])
        return cls(match["source"], match["place"], match["mode"] or "rw")


def memory_bytes(text: str) -> int:
    """Bytes of a limit such as `512m`; raises `InvalidInput` for less than a container may have."""
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    n_bytes = int(text.rstrip("kmgKMG")) * UNITS[unit]
    if not MIN_MEMORY_BYTES <= n_bytes < 2**50:
        detail = "expected 6m or more"
        raise InvalidInput(f"memory: {detail}.", [FieldError("memory", detail)])
    return n_bytes


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Address of this machine to publish at; raises `InvalidInput` for what is none."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        detail = "expected an address of the engine's machine, as 127.0.0.1 or 0.0.0.0"
        raise InvalidInput(f"host: {detail}.", [FieldError("host", detail)]) from None


def url_of(host: str, port: int) -> str:
    """Address at which this machine reaches what is published at `host`:`port`."""
    address = address_of(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address}:{port}" if address.version == 4 else f"http://[{address}]:{port}"


def variables(request: DeploymentRequest) -> dict[str, str]:
    """Variables of the container. One that only this machine reaches needs no keys."""
    given = dict(request.env)
    if address_of(request.host).is_loopback:
        given.setdefault(f"{PREFIX}INSECURE", "true")
    return given


def create(
    client: Any,
    image: Any,
    request: DeploymentRequest,
    volumes: tuple[Volume, ...],
    labels: Mapping[str, str],
) -> Any:
    """Makes the container, under a name that says that it is starting. It is not restarted before it was ready."""
    limits: dict[str, Any] = {"pids_limit": MAX_PROCESSES}
    if request.memory is not None:
        limits["mem_limit"] = memory_bytes(request.memory)
    if request.cpus is not None:
        limits["nano_cpus"] = round(request.cpus * 1e9)
    return client.containers.create(
        image.id,
        name=name_during(request.name, "starting"),
        labels={
            LABEL: request.name,
            TAG: request.tag,
            URL: url_of(request.host, request.port),
            **labels,
        },
        environment=variables(request),
        ports={PORT: (str(address_of(request.host)), request.port)},
        volumes={each.source: {"bind": each.place, "mode": each.mode} for each in volumes},
        init=True,
        read_only=True,
        tmpfs={"/tmp": "rw,noexec,nosuid,size=256m"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        log_config={"Type": "json-file", "Config": LOGS},
        **limits,
    )


def start(container: Any, request: DeploymentRequest) -> None:
    """Starts it; raises `Conflict` where its port is taken."""
    try:
        container.start()
    except Exception as error:
        if any(said in str(error) for said in TAKEN):
            raise Conflict(
                f"The port {request.port} of {request.host} is taken; choose another with --port."
            ) from None
        raise


def wait_until_ready(container: Any, request: DeploymentRequest, *, local: bool) -> None:
    """Returns when the container is ready, by its own check and, where `local`, over its published port.

    Raises `DeploymentFailed`, with what it printed last, when it has ended or is not ready in time.
    """
    until_s = time.monotonic() + parse_duration_ms(request.wait) / 1000
    while True:
        container.reload()
        state = container.attrs["State"]
        if state["Status"] in ("exited", "dead"):
            raise DeploymentFailed(
                f"{request.name} ended with status {state['ExitCode']} before it was ready."
            ).noted(_last_lines(container))
        healthy = _health(state) in ("healthy", "none")
        if state["Running"] and healthy and (not local or is_ready(container.labels[URL])):
            return
        if time.monotonic() >= until_s:
            raise DeploymentFailed(
                f"{request.name} was not ready within {request.wait}; give it longer with --wait."
            ).noted(_last_lines(container))
        time.sleep(POLL_S)


def is_ready(url: str, path: str = "/health/ready") -> bool:
    """Whether a published service answers 200 there, just now."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def finish(container: Any) -> None:
    """Ends the start of a container that is ready: from now on it is restarted, and has its name."""
    container.update(restart_policy={"Name": "unless-stopped"})
    container.rename(container.labels[LABEL])


def remove(container: Any) -> None:
    """Removes a container, at once, and the volumes that have no name; one that is gone already is no fault."""
    try:
        container.remove(force=True, v=True)
    except Exception as error:
        if getattr(error, "status_code", None) not in (404, 409):
            raise


def stop(container: Any, timeout_s: int) -> int | None:
    """Stops it: SIGTERM, and SIGKILL after the time-out. Returns its exit status."""
    container.stop(timeout=timeout_s)
    container.reload()
    return int(container.attrs["State"]["ExitCode"])


def last_lines(container: Any, n: int) -> list[str]:
    text: bytes = container.logs(stdout=True, stderr=True, tail=n)
    return text.decode(errors="replace").splitlines()


def ours(client: Any, name: str | None = None) -> list[Any]:
    """Containers of our deployments, or of the one of this name, by name."""
    label = LABEL if name is None else f"{LABEL}={name}"
    containers = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
    return sorted(containers, key=lambda each: (each.labels[LABEL], each.name))


def one(client: Any, name: str) -> Any:
    """Container of a deployment; raises `NotFound`."""
    containers = ours(client, name)
    if not containers:
        raise NotFound(
            f"There is no deployment {name[:128]!r}; `bandit-serve deploy list` shows those that there are."
        )
    return containers[0]


def view(container: Any, *, ready: bool | None = None) -> DeploymentView:
    labels, state = container.labels, container.attrs["State"]
    doing = under_way(labels[LABEL], container.name)
    status = state["Status"]
    if doing is not None:
        status = "unfinished" if is_abandoned(doing.process) else doing.work
    return DeploymentView(
        name=labels[LABEL],
        container_id=container.id,
        image=labels[TAG],
        status=status,
        health=_health(state),
        url=labels[URL],
        exit_code=None if state["Running"] else int(state["ExitCode"]),
        ready=UNSET if ready is None else ready,
        model=labels.get(MODEL, UNSET),
        version=labels.get(VERSION, UNSET),
        environment=cast("Environment", labels[ENVIRONMENT]) if ENVIRONMENT in labels else UNSET,
    )


def _health(state: Mapping[str, Any]) -> str:
    health = state.get("Health") or state.get("Healthcheck") or {}
    return str(health.get("Status") or "none")


def _last_lines(container: Any) -> str:
    return " / ".join(line.strip() for line in last_lines(container, MAX_REASON_LINES))[:1_000]
