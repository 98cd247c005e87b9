"""Commands `bandit-serve deploy`: images, containers and manifests that run the service or serve a version."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bandit_serve.deployments.manifests import Wanted, as_yaml
from bandit_serve.deployments.manifests import manifests as made
from bandit_serve.errors import NotBuilt
from bandit_serve.settings import PREFIX

app = typer.Typer(
    help="Images, containers and manifests that run the service or serve a version.", no_args_is_help=True
)

NOT_BUILT = ("build", "run", "status", "list", "logs", "stop", "canary")


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


def _refuse(context: typer.Context) -> None:
    raise NotBuilt(f"`bandit-serve deploy {context.info_name}` is part of the contract but not built yet.")


for each in NOT_BUILT:
    app.command(
        each,
        help="Not built yet.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_refuse)
