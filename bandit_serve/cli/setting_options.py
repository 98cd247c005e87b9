"""Options of commands for settings, made from the settings' declarations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from bandit_serve.settings import Setting, declared_settings, load_settings, load_with_sources

CONFIG = Annotated[str | None, typer.Option("--config", help="Config file (TOML).")]
DECLARED = declared_settings()


def setting_option(name: str, *, default: str | None = None) -> Any:
    """Makes the option of a setting. `default` describes the value without the flag, where the setting's own default is
    not used.
    """
    setting = DECLARED[name]
    written = None if setting.kind is bool else f"<{setting.unit or setting.kind.__name__}>"
    return typer.Option(setting.flag, metavar=written, help=_help(setting, default), show_default=False)


def _help(setting: Setting, default: str | None) -> str:
    if default is None and setting.kind is not bool:
        default = setting.unset if setting.default is None else str(setting.default)
    sentence = setting.help + ("." if default is None else f" (default: {default}).")
    values = f" {setting.range[0].upper()}{setting.range[1:]}." if setting.range else ""
    return (sentence + values).replace("`", "")


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: makes a command of `work(settings, …)`, with options for the named settings, or for all.

    The value None means that a flag was not given, and so does not override a variable or a config key.
    """
    return _taking(load_settings, names)


def takes_loaded_settings(work: Callable[..., None]) -> Callable[..., None]:
    """Decorator: as `takes_settings()`, and makes a command of `work(loaded_settings, …)`."""
    return _taking(load_with_sources, ())(work)


def _taking(
    load: Callable[..., Any], names: tuple[str, ...]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    taken = names or tuple(DECLARED)

    def decorate(work: Callable[..., None]) -> Callable[..., None]:
        def command(config: str | None, **arguments: Any) -> None:
            flags = {name: arguments.pop(name) for name in taken}
            work(load(flags, config=config), **arguments)

        own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
        annotations = {name: Annotated[DECLARED[name].kind | None, setting_option(name)] for name in taken}
        parameters = [
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
                for name, annotation in (annotations | {"config": CONFIG}).items()
            ),
        ]
        functools.update_wrapper(
            command, work, assigned=("__module__", "__name__", "__qualname__", "__doc__")
        )
        del command.__wrapped__  # type: ignore[attr-defined]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate
