"""Commands `bandit-serve config`: the settings as this host has them."""

from __future__ import annotations

import typer
from msgspec import Struct

from bandit_serve.cli.command import AsJson
from bandit_serve.cli.output import print_json, print_table, say
from bandit_serve.cli.setting_options import DECLARED, takes_loaded_settings
from bandit_serve.settings import LoadedSettings

app = typer.Typer(help="The settings as this host has them.", no_args_is_help=True)


class SettingView(Struct, frozen=True):
    """Setting and its value, without passwords. `source` is a flag, a variable, a config file or `default`."""

    name: str
    value: bool | int | float | str | None
    source: str


class ConfigView(Struct, frozen=True):
    config: str | None
    settings: list[SettingView]


@app.callback()
def _config() -> None:
    pass


@app.command()
@takes_loaded_settings
def show(loaded: LoadedSettings, as_json: AsJson = False) -> None:
    """Prints every setting, its value and where that came from; passwords are hidden."""
    values = loaded.settings.shown()
    view = ConfigView(
        loaded.config, [SettingView(name, value, loaded.sources[name]) for name, value in values.items()]
    )
    if as_json:
        print_json(view)
        return
    rows = [(each.name, _written(each), each.source) for each in view.settings]
    print_table(("Setting", "Value", "From"), rows, whole=("Setting",))
    say(f"Config file: {view.config or 'none'}.")


def _written(setting: SettingView) -> str:
    if setting.value is None:
        return DECLARED[setting.name].unset.replace("`", "")
    if isinstance(setting.value, bool):
        return "on" if setting.value else "off"
    return str(setting.value)
