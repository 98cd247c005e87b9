"""`bandit-serve serve`: runs the service."""

from __future__ import annotations

from typing import Annotated

import typer

from bandit_serve.base.process_log import log_to_stderr
from bandit_serve.server.supervisor import Supervisor
from bandit_serve.settings import load_settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind (default: 127.0.0.1).")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to bind; 0 takes a free one (default: 8000).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes (default: 1).")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="redis://, rediss:// or unix:// URL (default: a private server in the data directory)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data directory (default: bandit-serve-data).")] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            help="Where model files are kept: store, or a URL for fsspec (default: the data directory)."
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Config file (TOML).")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Bind an address that others can reach, without keys.")
    ] = None,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(
            help="Names beside those of this machine that a loopback service goes by (default: none)."
        ),
    ] = None,
    cors_origins: Annotated[
        str | None, typer.Option(help="Origins whose web pages may talk to the service (default: none).")
    ] = None,
    access_log: Annotated[bool | None, typer.Option("--access-log", help="Log every request.")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (default: info).")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Prefix of all keys in the store (default: bandit_serve).")
    ] = None,
    store_timeout: Annotated[
        str | None, typer.Option(help="Longest wait for the store (default: 1s).")
    ] = None,
    body_timeout: Annotated[
        str | None, typer.Option(help="Longest wait for a request's body (default: 10s).")
    ] = None,
    header_timeout: Annotated[
        str | None, typer.Option(help="Longest wait for a request's head (default: 10s).")
    ] = None,
    keepalive_timeout: Annotated[
        str | None, typer.Option(help="How long an idle connection is kept (default: 75s).")
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option(help="Most connections of a worker (default: 4096).")
    ] = None,
    max_body: Annotated[int | None, typer.Option(help="Largest body, in bytes (default: 16777216).")] = None,
    max_artifact: Annotated[
        int | None, typer.Option(help="Largest artifact, in bytes (default: 4294967296).")
    ] = None,
    model_memory: Annotated[
        int | None,
        typer.Option(help="Memory for models that take no live traffic, in bytes (default: 2147483648)."),
    ] = None,
    top_k_lifetime: Annotated[
        str | None, typer.Option(help="How long a top-k answer is kept (default: 60s).")
    ] = None,
    learn: Annotated[
        bool | None,
        typer.Option(
            "--learn", help="Keep the user and item of each prediction in the log, to learn from rewards."
        ),
    ] = None,
    learners: Annotated[
        str | None,
        typer.Option(help="Models to go on learning beside the service: films,books (default: none)."),
    ] = None,
    drain: Annotated[
        str | None, typer.Option(help="Longest wait for requests under way when stopping (default: 10s).")
    ] = None,
    idle_grace: Annotated[
        str | None, typer.Option(help="When stopping, how long an idle connection may stay (default: 1s).")
    ] = None,
    stall_timeout: Annotated[
        str | None,
        typer.Option(help="How long a worker may stand still before it is replaced (default: 30s)."),
    ] = None,
    retention_time: Annotated[
        str | None, typer.Option(help="How far back a log reaches (default: 7d).")
    ] = None,
    retention_bytes: Annotated[
        int | None, typer.Option(help="How large a log may be (default: 268435456).")
    ] = None,
    snapshot_every: Annotated[
        str | None, typer.Option(help="How often snapshots are written (default: 60s).")
    ] = None,
    key_rotation: Annotated[
        str | None, typer.Option(help="Age at which a token key is replaced (default: 30d).")
    ] = None,
) -> None:
    """Runs the service until SIGTERM; prints one line with its address when it accepts requests."""
    flags = dict(locals())
    settings = load_settings(
        {name: value for name, value in flags.items() if name != "config"}, config=config
    )
    log_to_stderr("supervisor", settings.log_level)
    raise typer.Exit(Supervisor(settings).run())
