"""Container engine: Docker, or any other with its API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bandit_serve.base.extras import require
from bandit_serve.errors import EngineAway, EngineRefused

VARIABLE = "DOCKER_HOST"
USUAL = "unix:///var/run/docker.sock"
TIMEOUT_S = 60.0


def address_of(setting: str | None) -> str:
    """Address of the engine for a command: the setting, or DOCKER_HOST, or the usual socket."""
    return setting or os.environ.get(VARIABLE) or USUAL


def is_local(address: str) -> bool:
    """Whether the engine publishes ports on this machine."""
    return address.startswith("unix:")


@contextmanager
def engine_at(address: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[Any]:
    """Yields a client of the engine (`docker.DockerClient`). Blocks: of an event loop, call it in a thread.

    Raises `NotInstalled` without the SDK, `EngineAway` where no engine answers, and `EngineRefused` for what the engine
    refuses within the block.
    """
    docker = require("docker", "docker")
    requests = require("requests", "docker")
    client = None
    try:
        client = docker.DockerClient(base_url=address, timeout=timeout_s, version="auto")
        yield client
    except docker.errors.APIError as error:
        raise EngineRefused(f"The container engine refuses this: {_said(error)}.") from None
    except docker.errors.BuildError as error:
        raise EngineRefused(
            f"The image can not be built: {_one_line(error.msg)}. {_end_of(error.build_log)}".rstrip()
        ) from None
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        sentence = "No container engine answers; start one, or name it with --docker or DOCKER_HOST."
        raise EngineAway(sentence).noted(f"{address}: {_one_line(error)}") from None
    finally:
        if client is not None:
            client.close()


def _said(error: Any) -> str:
    return _one_line(error.explanation or error).rstrip(".")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:500]


def _end_of(build_log: Any) -> str:
    """Last lines that the failed step of a build has printed."""
    lines = [each.get("stream", "").strip() for each in build_log if isinstance(each, dict)]
    said = [line for line in lines if line]
    return _one_line(" / ".join(said[-4:]))
