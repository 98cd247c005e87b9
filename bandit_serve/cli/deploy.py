"""Commands `bandit-serve deploy`: images, containers and manifests that run the service or serve a version."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from msgspec import UNSET

from bandit_serve.api.deployments import (
    MAX_LOG_LINES,
    CanaryRequest,
    DeploymentList,
    DeploymentRequest,
    DeploymentView,
    Environment,
    Serving,
)
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.base.validation import invalid
from bandit_serve.cli.access import actor, following, store_url
from bandit_serve.cli.command import WHERE, AsJson, of_existing_store, with_state
from bandit_serve.cli.data_directory import is_data_directory, require_data_directory
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_facts, print_json, print_table, say
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.deployments import image as images
from bandit_serve.deployments.bundle import require_file
from bandit_serve.deployments.canary import start_canary
from bandit_serve.deployments.container import Volume
from bandit_serve.deployments.deployments import Deployments
from bandit_serve.deployments.engine import address_of
from bandit_serve.deployments.manifests import Wanted, as_yaml
from bandit_serve.deployments.manifests import manifests as made
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.node import Node
from bandit_serve.settings import PREFIX, Settings

app = typer.Typer(
    help="Images, containers and manifests that run the service or serve a version.", no_args_is_help=True
)
T = TypeVar("T")

Name = Annotated[str, typer.Argument(help="The deployment's name.", show_default=False)]
Tag = Annotated[str, typer.Option(help="The image's name, as shop:1.", show_default=False)]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model whose version is served; with --version.")
]
VersionOption = Annotated[str | None, typer.Option("--version", help="The version that is served.")]


class _Registry:
    """The registry that the settings name, opened when it is needed and closed with the command."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._node: Node | None = None

    async def __call__(self, data: str | None = None) -> Node:
        if self._node is None:
            settings = self._settings
            unknown = settings.store is None and not is_data_directory(settings.data_dir)
            if unknown and data is not None and is_data_directory(Path(data)):
                settings = msgspec.structs.replace(settings, data=data)
            require_data_directory(settings)
            url = self._stack.enter_context(store_url(settings))
            self._node = await self._stack.enter_async_context(following(settings, url))
        return self._node


def _with_registry(settings: Settings, work: Callable[[_Registry], Awaitable[T]]) -> T:
    async def run() -> T:
        async with AsyncExitStack() as stack:
            return await work(_Registry(settings, stack))

    return asyncio.run(run())


def _with_deployments(settings: Settings, work: Callable[[Deployments], Awaitable[T]]) -> T:
    data = str(settings.data_dir.absolute()) if settings.store is None else None

    def run(registry: _Registry) -> Awaitable[T]:
        return work(Deployments(address_of(settings.docker), registry, data=data))

    return _with_registry(settings, run)


@app.command()
@takes_settings("docker", *WHERE)
def build(
    settings: Settings,
    tag: Tag,
    wheel: Annotated[
        Path | None, typer.Option(help="The service's wheel (default: made of the package that runs).")
    ] = None,
    base: Annotated[str, typer.Option(help="Image with Python to build on.")] = images.BASE,
    network: Annotated[
        str | None, typer.Option(help="The build's network, as host (default: the engine's own).")
    ] = None,
    model: ModelOption = None,
    version: VersionOption = None,
    as_json: AsJson = False,
) -> None:
    """Builds an image of the service, with the model of a version inside if one is named."""
    wanted = images.WantedImage(tag, wheel, base, network).checked()
    serving = _serving(model, version, None)

    async def work(registry: _Registry) -> Any:
        known, artifacts = None, None
        if serving is not None:
            node = await registry()
            known = (await node.model_changes.known()).version(serving.model, serving.version)
            require_file(known)
            artifacts = node.artifacts
        return await asyncio.to_thread(images.build, address_of(settings.docker), wanted, known, artifacts)

    built = _with_registry(settings, work)
    if as_json:
        print_json(built)
        return
    inside = "" if built.model is UNSET else f", with {built.model} {built.version} inside"
    say(f"{built.tag}: {built.size / 1e6:,.0f} MB{inside}.")


@app.command()
@takes_settings("docker", *WHERE)
def run(
    settings: Settings,
    name: Name,
    tag: Tag,
    port: Annotated[int, typer.Option(help="Port to publish it at.", show_default=False)],
    host: Annotated[str, typer.Option("--host", help="Address to publish it at.")] = "127.0.0.1",
    volume: Annotated[
        list[str] | None, typer.Option(help="SRC:/data, a directory or a named volume; repeatable.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="Variable of the service, K=V; repeatable.")] = None,
    memory: Annotated[str | None, typer.Option(help="Most memory, as 512m.")] = None,
    cpus: Annotated[float | None, number_option("Most processors, as 1 or 0.5.")] = None,
    wait: Annotated[str, typer.Option(help="How long it may take until it is ready.")] = "60s",
    model: ModelOption = None,
    version: VersionOption = None,
    environment: Annotated[
        Environment | None, typer.Option(help="Where the version is served (default: staging).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Starts a deployment and returns when it is ready. What could not be started leaves nothing behind."""
    described = {
        "name": name,
        "tag": tag,
        "port": port,
        "host": host,
        "env": dict(_variable(each) for each in env or ()),
        "memory": memory,
        "cpus": cpus,
        "wait": wait,
    }
    request = msgspec.structs.replace(
        _converted(described, DeploymentRequest), serving=_serving(model, version, environment)
    )
    volumes = tuple(map(_volume, volume or ()))
    with _refused_as_usage():
        shown = _with_deployments(settings, lambda deployments: deployments.run(request, actor(), volumes))
    if as_json:
        print_json(shown)
    else:
        say(f"{shown.name} is ready on {shown.url}.")


@app.command()
@takes_settings("docker", *WHERE)
def status(settings: Settings, name: Name, as_json: AsJson = False) -> None:
    """Shows a deployment."""
    shown = _with_deployments(settings, lambda deployments: deployments.status(name))
    if as_json:
        print_json(shown)
        return
    served = (
        [] if shown.model is UNSET else [("Serves", f"{shown.model} {shown.version} in {shown.environment}")]
    )
    ended = [] if shown.exit_code is None else [("Exit status", str(shown.exit_code))]
    print_facts(
        [
            ("Name", shown.name),
            ("Status", shown.status),
            ("Health", shown.health),
            *([] if shown.ready is UNSET else [("Ready", "yes" if shown.ready else "no")]),
            ("Address", shown.url),
            ("Image", shown.image),
            ("Container", shown.container_id[:12]),
            *served,
            *ended,
        ]
    )


@app.command("list")
@takes_settings("docker", *WHERE)
def list_all(settings: Settings, as_json: AsJson = False) -> None:
    """Lists the deployments."""
    shown = _with_deployments(settings, lambda deployments: deployments.list_all())
    if as_json:
        print_json(DeploymentList(shown))
    elif not shown:
        say("There is no deployment.")
    else:
        print_table(
            ("Name", "Status", "Health", "Address", "Image", "Serves"),
            [(each.name, each.status, each.health, each.url, each.image, _served(each)) for each in shown],
            whole=("Name", "Status", "Health"),
        )


@app.command()
@takes_settings("docker", *WHERE)
def logs(
    settings: Settings,
    name: Name,
    lines: Annotated[int, typer.Option(min=1, max=MAX_LOG_LINES, help="How many of the last lines.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Prints what a deployment has logged."""
    shown = _with_deployments(settings, lambda deployments: deployments.logs(name, lines))
    if as_json:
        print_json(shown)
    else:
        for line in shown.lines:
            sys.stdout.write(f"{line}\n")


@app.command()
@takes_settings("docker", *WHERE)
def stop(
    settings: Settings,
    name: Name,
    timeout: Annotated[
        str, typer.Option(help="How long it may take to answer what it has accepted.")
    ] = "30s",
    as_json: AsJson = False,
) -> None:
    """Stops a deployment and removes it; a version that it served is retired."""
    timeout_s = math.ceil(_duration_ms(timeout, "--timeout") / 1000)
    shown = _with_deployments(settings, lambda deployments: deployments.stop(name, timeout_s, actor()))
    if as_json:
        print_json(shown)
    else:
        say(f"{shown.name} has ended with status {shown.exit_code} and is removed.")


@app.command()
@with_state
@of_existing_store
async def canary(
    node: Node,
    experiment: Annotated[str, typer.Option(help="The experiment, which runs.", show_default=False)],
    model: Annotated[str | None, typer.Argument(help="The model's name.", show_default=False)] = None,
    version: Annotated[str | None, typer.Argument(help="The version's name.", show_default=False)] = None,
    ramp: Annotated[
        str, typer.Option(help="Its share at first, and how long until it may have all: 0.01:1h.")
    ] = "0.01:1h",
    guardrail: Annotated[
        str | None,
        typer.Option(
            help="Metric and the loss that it allows, as latency_ms=20% (default: error=0.05, or the experiment's).",
            show_default=False,
        ),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="The arm's name (default: canary-VERSION).")] = None,
    model_option: ModelOption = None,
    version_option: VersionOption = None,
    environment: Annotated[
        Environment | None, typer.Option(help="Status to move the version to (default: as it is).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Gives a version a growing part of an experiment's traffic.

    The service pauses the arm by itself as soon as its guardrail shows harm.
    """
    start, colon, over = ramp.partition(":")
    described = {
        "model": model or model_option,
        "version": version or version_option,
        "experiment": experiment,
        "arm": arm,
        "ramp": {"from": _number(start, "--ramp"), "over": over if colon else "1h"},
        "environment": environment,
    }
    if guardrail is not None:
        described["guardrail"] = guardrail
    with _refused_as_usage():
        shown = await start_canary(node, _converted(described, CanaryRequest), actor())
    if as_json:
        print_json(shown)
    elif shown.paused:
        say(f"The arm {shown.arm} of {shown.experiment} is paused: see `bandit-serve experiments show`.")
    else:
        say(
            f"{shown.model} {shown.version} is the arm {shown.arm} of {shown.experiment}; {shown.guardrail} guards it."
        )


@app.command()
def manifests(
    name: Annotated[str, typer.Option(help="The deployment's name.", show_default=False)],
    image: Annotated[str, typer.Option(help="The service's image.", show_default=False)],
    store: Annotated[
        str,
        typer.Option(
            help="redis:// or rediss:// URL of the store that all pods share.",
            envvar=f"{PREFIX}STORE",
            show_default=False,
        ),
    ],
    replicas: Annotated[int, typer.Option(help="Pods.")] = 2,
    namespace: Annotated[
        str | None, typer.Option(help="The cluster's namespace (default: the one that it is applied to).")
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory limit of a pod.")] = "1Gi",
    cpu: Annotated[str, typer.Option(help="Processors that a pod asks for.")] = "500m",
) -> None:
    """Prints manifests for Kubernetes: Deployment, Service and PodDisruptionBudget, as YAML.

    Where the store's URL has a password, a Secret holds it.
    """
    sys.stdout.write(as_yaml(made(Wanted(name, image, replicas, store, namespace, memory, cpu))))


@contextlib.contextmanager
def _refused_as_usage() -> Iterator[None]:
    """What is wrong with a description is wrong with the options that gave it."""
    try:
        yield
    except InvalidInput as error:
        raise UsageError(str(error)) from None


def _converted(described: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(described, kind)
    except msgspec.ValidationError as error:
        raise UsageError(str(invalid(error, ""))) from None


def _serving(model: str | None, version: str | None, environment: Environment | None) -> Serving | None:
    if (model is None) != (version is None):
        raise UsageError("--model and --version name a version together.")
    if model is None:
        if environment is not None:
            raise UsageError("--environment is of a version: name it with --model and --version.")
        return None
    return _converted({"model": model, "version": version, "environment": environment or "staging"}, Serving)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"--env: expected NAME=VALUE, not {name[:40]!r}.")
    return name, value


def _volume(text: str) -> Volume:
    volume = Volume.parse(text)
    # The engine takes what has no slash for the name of a volume.
    return volume._replace(source=str(Path(volume.source).absolute())) if "/" in volume.source else volume


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option}: expected a share and a duration, as 0.01:1h.") from None


def _duration_ms(text: str, option: str) -> int:
    try:
        return parse_duration_ms(text)
    except InvalidInput as error:
        raise UsageError(f"{option}: {error}.") from None


def _served(shown: DeploymentView) -> str:
    return "" if shown.model is UNSET else f"{shown.model} {shown.version}"
