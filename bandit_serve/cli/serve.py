"""Command `bandit-serve serve`: the service."""

from __future__ import annotations

import typer

from bandit_serve.base.process_log import log_to_stderr
from bandit_serve.cli.setting_options import takes_settings
from bandit_serve.server.libraries import require_libraries
from bandit_serve.settings import Settings


@takes_settings()
def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM; prints one line with its address when it accepts requests."""
    require_libraries()
    from bandit_serve.server.supervisor import Supervisor

    log_to_stderr("supervisor", settings.log_level, settings.log_format)
    raise typer.Exit(Supervisor(settings).run())
