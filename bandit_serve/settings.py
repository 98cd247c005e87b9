"""Settings: each has a flag, a `BANDIT_SERVE_*` variable and a config key of the same name, the former stronger."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bandit_serve.base.durations import DURATION_PATTERN, parse_duration_ms
from bandit_serve.base.mistakes import expected_one_of, nearest
from bandit_serve.base.secrets import know_secrets_of, shown_url
from bandit_serve.base.validation import field_error
from bandit_serve.errors import FieldError, UsageError

log = logging.getLogger(__name__)

PREFIX = "BANDIT_SERVE_"
HostNames = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:\[\]-]+(,[A-Za-z0-9._:\[\]-]+)*(?!\n)$")]
Origins = Annotated[
    str, Meta(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+(,https?://[A-Za-z0-9._:\[\]-]+)*(?!\n)$")
]
Duration = Annotated[str, Meta(pattern=DURATION_PATTERN)]


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of them, with their defaults. Sizes are in bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    store: str | None = None
    data: str = "bandit-serve-data"
    artifacts: str | None = None
    insecure: bool = False
    allowed_hosts: HostNames | None = None
    cors_origins: Origins | None = None
    access_log: bool = False
    log_level: Annotated[str, Meta(pattern=r"^(debug|info|warning|error)(?!\n)$")] = "info"
    namespace: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}(?!\n)$")] = "bandit_serve"
    store_timeout: Duration = "1s"
    body_timeout: Duration = "10s"
    header_timeout: Duration = "10s"
    keepalive_timeout: Duration = "75s"
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096
    max_body: Annotated[int, Meta(ge=1_024)] = 16 * 2**20
    max_artifact: Annotated[int, Meta(ge=1_024)] = 4 * 2**30
    model_memory: Annotated[int, Meta(ge=0)] = 2 * 2**30
    top_k_lifetime: Duration = "60s"
    learn: bool = False
    learners: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*(?!\n)$")] | None = None
    drain: Duration = "10s"
    idle_grace: Duration = "1s"
    stall_timeout: Duration = "30s"
    retention_time: Duration = "7d"
    retention_bytes: Annotated[int, Meta(ge=2**20)] = 256 * 2**20
    snapshot_every: Duration = "60s"
    key_rotation: Duration = "30d"

    def __post_init__(self) -> None:
        know_secrets_of(self.store, self.artifacts)

    def __repr__(self) -> str:
        """Without the passwords that URLs may have in them."""
        own = {name: getattr(self, name) for name in self.__struct_fields__}
        own |= {name: shown_url(own[name]) for name in ("store", "artifacts") if own[name] is not None}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in own.items())})"

    def seconds(self, name: str) -> float:
        """A duration setting in seconds."""
        return parse_duration_ms(getattr(self, name)) / 1000

    @property
    def allowed_host_names(self) -> list[str]:
        """Names by which this service is called beside those of this machine, in lower case."""
        return self.allowed_hosts.lower().split(",") if self.allowed_hosts else []

    @property
    def allowed_origins(self) -> list[str]:
        """Origins whose pages may talk to this service, as browsers write them."""
        return self.cors_origins.lower().split(",") if self.cors_origins else []

    @property
    def models_that_learn(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(self.learners.split(","))) if self.learners else []

    @property
    def keeps_pairs(self) -> bool:
        """Whether the log is to say what each prediction was about."""
        return self.learn or bool(self.learners)

    @property
    def data_dir(self) -> Path:
        return Path(self.data)


KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT_\d+_)")
"""What it sets in every container where a service is called bandit-serve; and `PORT` itself, as a URL."""


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that looks like a setting and is none."""
    known = [PREFIX + name.upper() for name in ("config", *Settings.__struct_fields__)]
    for name in sorted(environ):
        ours = name.upper().startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_")
        if ours and name not in known and not KUBERNETES.match(name):
            meant = nearest(name[len(PREFIX) :], [each[len(PREFIX) :].lower() for each in known])
            guess = "" if meant is None else f" Did you mean {PREFIX}{meant.upper()}?"
            yield f"The variable {name} is no setting and is not heeded.{guess}"


def load_settings(
    flags: Mapping[str, Any], *, config: str | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Flags over variables over the config file (TOML) over defaults; `UsageError` names the one that is wrong.

    A flag that is None was not given, nor was a variable that is empty. Variables that are no settings are warned of.
    """
    for sentence in unknown_variables(environ):
        log.warning("%s", sentence)
    config = config or environ.get(f"{PREFIX}CONFIG")
    values: dict[str, Any] = _read_config(config) if config else {}
    for name in Settings.__struct_fields__:
        text = environ.get(PREFIX + name.upper())
        if text and not (name == "port" and text.startswith("tcp://")):
            values[name] = text
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong_setting(error, values) from None


def _wrong_setting(error: msgspec.ValidationError, values: Mapping[str, Any]) -> UsageError:
    field = field_error(error)
    unknown = [name for name in values if name not in Settings.__struct_fields__]
    if unknown:
        fields = [
            FieldError(name, f"unknown setting: {expected_one_of(name, Settings.__struct_fields__)}")
            for name in unknown
        ]
        return UsageError(f"The config file is wrong: {fields[0].at}: {fields[0].detail}.", fields)
    if field.at not in Settings.__struct_fields__:
        return UsageError(f"The config file is wrong: {field.detail}.", [field])
    spellings = f"--{field.at.replace('_', '-')}, {PREFIX}{field.at.upper()} or {field.at} in the config file"
    return UsageError(f"The setting {field.at} is wrong: {field.detail} ({spellings}).", [field])


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"The config file {path} can not be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The config file {path} is not TOML: {error}.") from None
