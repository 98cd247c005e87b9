"""Settings, each declared once as a field. A flag, a variable `BANDIT_SERVE_*` and a config key have its name, in this
order of precedence. A variable `BANDIT_SERVE_*_FILE` names a file that holds the value.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from bandit_serve import webhook
from bandit_serve.base.durations import DURATION_PATTERN, parse_duration_ms
from bandit_serve.base.http_address import HttpAddress
from bandit_serve.base.mistakes import expected_one_of, nearest
from bandit_serve.base.names import NAME_PATTERN, is_name
from bandit_serve.base.nesting import TOO_DEEP, nesting_error
from bandit_serve.base.secrets import know_secrets_of, shown_url
from bandit_serve.base.validation import field_error
from bandit_serve.errors import FieldError, UsageError

log = logging.getLogger(__name__)

PREFIX = "BANDIT_SERVE_"
OF_FILE = "_FILE"
MAX_FILE_CHARS = 65_536
HostNames = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:\[\]-]+(,[A-Za-z0-9._:\[\]-]+)*(?!\n)$")]
Origins = Annotated[
    str, Meta(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+(,https?://[A-Za-z0-9._:\[\]-]+)*(?!\n)$")
]
Addresses = Annotated[str, Meta(pattern=r"^https?://[^,\s]+(,https?://[^,\s]+)*(?!\n)$")]
CollectorUrl = Annotated[str, Meta(pattern=r"^https?://[^@\s]+(?!\n)$")]
Proxies = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:/-]+(,[A-Za-z0-9._:/-]+)*(?!\n)$")]
RunFiles = Annotated[str, Meta(pattern=r"^[^,\s-]([^,]*[^,\s])?(,[^,\s-]([^,]*[^,\s])?)*(?!\n)$")]
ModelNames = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*(?!\n)$")]
Namespace = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._-]{1,64}(?!\n)$",
        extra={"range": "1 to 64 letters, digits, dots, underscores or hyphens"},
    ),
]
Duration = Annotated[str, Meta(pattern=DURATION_PATTERN, extra={"unit": "duration"})]
Bytes = Annotated[int, Meta(extra={"unit": "bytes"})]


OF_ALL_TENANTS = "*"


class TenantLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one tenant; None for those that it does not have.

    `requests` a second on one machine, each entry of a batch counted as one, and `burst` of them at once; `experiments`
    that exist; `model_memory` of a worker, live models included, and `log_bytes` of all its experiments, in bytes;
    `batch`: entries of the largest batch.
    """

    requests: Annotated[float, Meta(ge=0.001, le=1e9)] | None = None
    burst: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    experiments: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    model_memory: Annotated[int, Meta(ge=0)] | None = None
    log_bytes: Annotated[int, Meta(ge=2**20)] | None = None
    batch: Annotated[int, Meta(ge=1)] | None = None

    @property
    def burst_requests(self) -> float:
        """Requests at once: those of a second where `burst` does not say."""
        return max(self.requests or 0.0, 1.0) if self.burst is None else float(self.burst)


def about(text: str, *, unset: str | None = None) -> Meta:
    """Help of a setting: one sentence without its full stop. `unset` describes the default None."""
    return Meta(description=text, extra={} if unset is None else {"unset": unset})


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings. Each field makes a flag, a variable, a config key, a line of `--help` and a row of a document."""

    host: Annotated[str, about("Address to bind")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535), about("Port to bind; 0 takes a free one")] = 8000
    workers: Annotated[int, Meta(ge=1, le=256), about("Worker processes; one that dies is replaced")] = 1
    store: Annotated[
        str | None,
        about(
            "URL of the store: `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`",
            unset="a private server in the data directory",
        ),
    ] = None
    data: Annotated[str, about("Data directory: artifacts, the newest snapshots and the private store")] = (
        "bandit-serve-data"
    )
    artifacts: Annotated[
        str | None,
        about("Where model files are kept: `store`, or a URL for fsspec", unset="the data directory"),
    ] = None
    insecure: Annotated[bool, about("Bind an address that others can reach, without keys")] = False
    tls_cert: Annotated[
        str | None,
        about(
            "File with the service's certificate and its chain (PEM), for https; read again when it is renewed"
        ),
    ] = None
    tls_key: Annotated[
        str | None, about("File with the private key of `tls_cert` (PEM), which nobody else may read")
    ] = None
    allowed_hosts: Annotated[
        HostNames | None,
        about(
            "Names, as `bandits.internal,box:8000`, that a loopback service goes by besides those of this machine"
        ),
    ] = None
    forwarded_allow: Annotated[
        Proxies | None,
        about(
            "Proxies, as `10.0.0.0/8,::1,edge.internal`, whose `Forwarded` and `X-Forwarded-…` headers are believed"
        ),
    ] = None
    cors_origins: Annotated[
        Origins | None,
        about(
            "Origins, as `https://shop.example`, whose web pages may evaluate flags and send exposures and rewards"
        ),
    ] = None
    keep_units: Annotated[
        bool, about("Log the names of units with their decisions, for exports; without it, only their hashes")
    ] = False
    access_log: Annotated[bool, about("Log every request")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], about("Lowest level that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], about("Form of the log: lines of text, or one JSON object a line")
    ] = "text"
    otel_endpoint: Annotated[
        CollectorUrl | None,
        about(
            "Collector, as `http://collector:4318`, that gets the spans of requests (OTLP over HTTP)",
            unset="`OTEL_EXPORTER_OTLP_ENDPOINT`, or no spans",
        ),
    ] = None
    otel_share: Annotated[
        Annotated[float, Meta(ge=0.0, le=1.0)] | None,
        about(
            "Share of the requests without a trace that begin one",
            unset="all, or what `OTEL_TRACES_SAMPLER` says",
        ),
    ] = None
    namespace: Annotated[Namespace, about("Prefix of all keys in the store")] = "bandit_serve"
    store_timeout: Annotated[Duration, about("Longest wait for the store")] = "1s"
    store_replicas: Annotated[
        int,
        Meta(ge=0, le=16),
        about("Replicas of the store that must confirm a reward, or another append, before it is answered"),
    ] = 0
    body_timeout: Annotated[Duration, about("Longest wait for a request's body")] = "10s"
    header_timeout: Annotated[Duration, about("Longest wait for a request's head")] = "10s"
    keepalive_timeout: Annotated[Duration, about("How long an idle connection is kept")] = "75s"
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000), about("Most connections of a worker")] = 4_096
    max_body: Annotated[
        Bytes, Meta(ge=1_024), about("Largest body of a request; routes that need less take less")
    ] = 16 * 2**20
    max_artifact: Annotated[Bytes, Meta(ge=1_024), about("Largest artifact")] = 4 * 2**30
    model_memory: Annotated[
        Bytes, Meta(ge=0), about("Memory for loaded models that take no live traffic")
    ] = 2 * 2**30
    top_k_lifetime: Annotated[
        Duration, about("How long a top-k answer is kept, by version, user, k, exclusions and features")
    ] = "60s"
    learn: Annotated[
        bool,
        about("Keep the user and item of each prediction of one item in the log, for `bandit-serve learn`"),
    ] = False
    learners: Annotated[
        ModelNames | None,
        about(
            "Models, as `films,books`, that a `bandit-serve learn` of the service's own goes on learning; "
            "implies `learn`"
        ),
    ] = None
    retrain: Annotated[
        RunFiles | None,
        about("Runs, as `films.yaml,books.yaml`, that a `bandit-serve retrain` of the service's own repeats"),
    ] = None
    upstreams: Annotated[
        Addresses | None,
        about(
            "Addresses, as `http://models.internal:8080,https://ml.example/v2`, below which remote versions may be "
            "called"
        ),
    ] = None
    webhooks: Annotated[
        str | None,
        about(
            "Addresses that are told of events: tables with `url`, `events` and `secret`, elsewhere than in the config "
            "file as JSON"
        ),
    ] = None
    tenants: Annotated[
        str | None,
        about(
            'Limits of tenants, as `{"shop": {"requests": 500}}`, with `*` for what holds for all; in the config file, '
            "tables as `[tenants.shop]`"
        ),
    ] = None
    docker: Annotated[
        str | None,
        about(
            "Address of the container engine, as `unix:///var/run/docker.sock`, in which `/v1/deployments` runs "
            "containers: whoever has an admin key then owns that machine",
            unset="no deployments over HTTP; commands look at DOCKER_HOST",
        ),
    ] = None
    bundle: Annotated[
        str | None,
        about(
            "Folder with the model that an image serves: it is registered and put into production at the start"
        ),
    ] = None
    service_holdout: Annotated[
        float,
        Meta(ge=0.0, le=0.5),
        about("Share of units that are in no experiment: they get control, and nothing is logged of them"),
    ] = 0.0
    drain: Annotated[Duration, about("When stopping, longest wait for requests under way")] = "10s"
    idle_grace: Annotated[Duration, about("When stopping, how long an idle connection may stay")] = "1s"
    stall_timeout: Annotated[
        Duration,
        about(
            "How long a worker's event loop may stand still until its stacks are logged and it is replaced"
        ),
    ] = "30s"
    retention_time: Annotated[Duration, about("How far back an experiment's log reaches")] = "7d"
    retention_bytes: Annotated[Bytes, Meta(ge=2**20), about("How large an experiment's log may be")] = (
        256 * 2**20
    )
    snapshot_every: Annotated[Duration, about("Time between two snapshots of an experiment")] = "60s"
    key_rotation: Annotated[
        Duration,
        about(
            "Age at which the key that signs decisions is replaced; old ones stay valid for the longest window"
        ),
    ] = "30d"

    def __post_init__(self) -> None:
        know_secrets_of(self.store, self.artifacts)

    def shown(self) -> dict[str, bool | int | float | str | None]:
        """Values by name, without passwords in URLs."""
        own = {name: getattr(self, name) for name in self.__struct_fields__}
        urls = {name: shown_url(own[name]) for name in ("store", "artifacts") if own[name] is not None}
        hooks = {} if self.webhooks is None else {"webhooks": webhook.shown_webhooks(self.webhooks)}
        return own | urls | hooks

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"

    def seconds(self, name: str) -> float:
        """A duration setting in seconds."""
        return parse_duration_ms(getattr(self, name)) / 1000

    @property
    def allowed_host_names(self) -> list[str]:
        """Host names of this service in lower case, besides those of this machine."""
        return self.allowed_hosts.lower().split(",") if self.allowed_hosts else []

    @property
    def allowed_origins(self) -> list[str]:
        """Origins, as browsers write them, whose pages may call this service."""
        return self.cors_origins.lower().split(",") if self.cors_origins else []

    @property
    def proxy_networks(self) -> list[IPv4Network | IPv6Network]:
        """Networks and addresses of the proxies that are believed. Raises `UsageError` where one is none."""
        try:
            return [ip_network(each) for each in self._proxies if _is_of_addresses(each)]
        except ValueError as error:
            raise UsageError(
                f"The setting forwarded_allow is wrong: {error}.",
                [FieldError("forwarded_allow", str(error))],
            ) from None

    @property
    def proxy_names(self) -> list[str]:
        """Host names of the proxies that are believed."""
        return [each for each in self._proxies if not _is_of_addresses(each)]

    @property
    def _proxies(self) -> list[str]:
        return self.forwarded_allow.lower().split(",") if self.forwarded_allow else []

    @property
    def upstream_prefixes(self) -> list[HttpAddress]:
        """Addresses below which upstreams may be called. Raises `UsageError` where one is none."""
        try:
            return [HttpAddress.parse(each) for each in self.upstreams.split(",")] if self.upstreams else []
        except ValueError as error:
            raise UsageError(
                f"The setting upstreams is wrong: {error}.", [FieldError("upstreams", str(error))]
            ) from None

    @property
    def told_webhooks(self) -> tuple[webhook.Webhook, ...]:
        """Webhooks that are told of events. Raises `UsageError` where one is wrong."""
        return webhook.read_webhooks(self.webhooks) if self.webhooks else ()

    @property
    def tenant_limits(self) -> dict[str, TenantLimits]:
        """Limits by the name of a tenant, and `OF_ALL_TENANTS`. Raises `UsageError` where they are none."""
        if self.tenants is None:
            return {}
        try:
            limits = msgspec.json.decode(self.tenants, type=dict[str, TenantLimits])
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
            field = (
                field_error(error)
                if isinstance(error, msgspec.ValidationError)
                else FieldError("", str(error))
            )
            raise _wrong_tenants(field) from None
        for name in limits:
            if name != OF_ALL_TENANTS and not is_name(name):
                raise _wrong_tenants(FieldError("", f"the name {name[:60]!r} does not match {NAME_PATTERN}"))
        return limits

    def limits_of(self, tenant: str) -> TenantLimits:
        """Limits of a tenant: its own, and where it has none those of all."""
        limits = self.tenant_limits
        of_all, own = limits.get(OF_ALL_TENANTS, TenantLimits()), limits.get(tenant, TenantLimits())
        given = {name: value for name, value in msgspec.structs.asdict(own).items() if value is not None}
        return msgspec.structs.replace(of_all, **given)

    @property
    def models_that_learn(self) -> list[str]:
        """Names of the models that keep learning, each once."""
        return list(dict.fromkeys(self.learners.split(","))) if self.learners else []

    @property
    def runs_to_repeat(self) -> list[str]:
        """Paths of the runs that are repeated, each once."""
        return list(dict.fromkeys(self.retrain.split(","))) if self.retrain else []

    @property
    def keeps_pairs(self) -> bool:
        """Whether predictions are logged with their user, item and features."""
        return self.learn or bool(self.learners)

    @property
    def data_dir(self) -> Path:
        return Path(self.data)


def _is_of_addresses(text: str) -> bool:
    """Whether a proxy is given as an address or a network, and not by its name."""
    return ":" in text or "/" in text or re.fullmatch(r"[0-9.]+", text) is not None


class Setting(NamedTuple):
    """Declaration of one setting.

    `kind` is bool, int, float or str; `unit` is "duration" or "bytes" for values written with a unit, otherwise empty.
    `choices` has all values of a setting with few. `range` describes the valid values, and is empty if all of the kind
    are valid. `unset` describes the default None.
    """

    name: str
    kind: type
    default: bool | int | float | str | None
    help: str
    unit: str
    choices: tuple[str, ...]
    range: str
    unset: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.name.upper()}"


def declared_settings() -> dict[str, Setting]:
    """Declarations of all settings, by name."""
    defaults = Settings()
    hints = get_type_hints(Settings, include_extras=True)
    return {
        name: _declared(name, hints[name], getattr(defaults, name)) for name in Settings.__struct_fields__
    }


def _declared(name: str, hint: Any, default: Any) -> Setting:
    kind, metas = _kind_and_metas(hint)
    extra: dict[str, str] = {}
    for meta in metas:
        extra |= meta.extra or {}
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Setting(
        name=name,
        kind=str if choices else kind,
        default=default,
        help="".join(meta.description or "" for meta in metas),
        unit=extra.get("unit", ""),
        choices=choices,
        range=extra.get("range") or _listed(choices) or _range(metas),
        unset=extra.get("unset", "none"),
    )


def _kind_and_metas(hint: Any) -> tuple[Any, list[Meta]]:
    """Type of an annotation, without None and metadata; and that metadata."""
    if get_origin(hint) is Annotated:
        kind, metas = _kind_and_metas(hint.__origin__)
        return kind, [*metas, *hint.__metadata__]
    alternatives = (
        [] if get_origin(hint) is Literal else [each for each in get_args(hint) if each is not NoneType]
    )
    return _kind_and_metas(alternatives[0]) if alternatives else (hint, [])


def _listed(choices: Sequence[str]) -> str:
    return f"one of {', '.join(choices[:-1])} or {choices[-1]}" if choices else ""


def _range(metas: Sequence[Meta]) -> str:
    least = next((meta.ge for meta in metas if meta.ge is not None), None)
    most = next((meta.le for meta in metas if meta.le is not None), None)
    if least is None:
        return "" if most is None else f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"


KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT_\d+_)")
"""What it sets in every container where a service is called bandit-serve; and `PORT` itself, as a URL."""


class LoadedSettings(NamedTuple):
    """Settings, where each came from (`--port`, `BANDIT_SERVE_PORT`, the config file's path or `default`), and that
    path.
    """

    settings: Settings
    sources: dict[str, str]
    config: str | None


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Sentences about variables that begin like a setting's and name none."""
    names = ["config", *Settings.__struct_fields__]
    known = {f"{PREFIX}{name.upper()}{end}" for name in names for end in ("", OF_FILE)} - {
        f"{PREFIX}CONFIG{OF_FILE}"
    }
    for name in sorted(environ):
        ours = name.upper().startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_")
        if ours and name not in known and not KUBERNETES.match(name):
            meant = nearest(name[len(PREFIX) :], names)
            guess = "" if meant is None else f" Did you mean {PREFIX}{meant.upper()}?"
            yield f"The variable {name} is no setting and is not heeded.{guess}"


def variables_for(**values: str | None) -> dict[str, str]:
    """Variables that give a process of ours these settings, whatever variables and files gave this one its own.

    A setting that is None is left out.
    """
    given = {f"{PREFIX}{name.upper()}": value for name, value in values.items() if value is not None}
    return given | {f"{variable}{OF_FILE}": "" for variable in given}


def load_settings(
    flags: Mapping[str, Any], *, config: str | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Loads settings: flags override variables, these the config file (TOML), and that the defaults.

    A flag that is None and a variable that is empty count as not given. Variables that name no setting are logged as
    warnings. Raises `UsageError`, which names the wrong setting.
    """
    return load_with_sources(flags, config=config, environ=environ).settings


def load_with_sources(
    flags: Mapping[str, Any], *, config: str | None = None, environ: Mapping[str, str] = os.environ
) -> LoadedSettings:
    """As `load_settings`, and where each value came from."""
    for sentence in unknown_variables(environ):
        log.warning("%s", sentence)
    config = config or environ.get(f"{PREFIX}CONFIG") or None
    values: dict[str, Any] = _read_config(config) if config else {}
    if "webhooks" in values:
        values["webhooks"] = webhook.written(values["webhooks"])
    sources = dict.fromkeys(Settings.__struct_fields__, "default")
    sources |= {name: str(config) for name in values if name in sources}
    for name in Settings.__struct_fields__:
        variable, text = _of_environment(name, environ)
        if text:
            values[name], sources[name] = text, variable
    if isinstance(values.get("tenants"), dict):
        values["tenants"] = _as_text(values["tenants"])
    given = {name: value for name, value in flags.items() if value is not None}
    values |= given
    sources |= {name: f"--{name.replace('_', '-')}" for name in given}
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong_setting(error, values) from None
    # They raise where one of them is none.
    _ = settings.upstream_prefixes, settings.proxy_networks, settings.told_webhooks, settings.tenant_limits
    return LoadedSettings(settings, sources, config)


def _as_text(tables: Mapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(tables).decode()
    except OverflowError:
        raise _wrong_tenants(FieldError("", "expected whole numbers of at most 64 bits")) from None


def _wrong_tenants(field: FieldError) -> UsageError:
    at = f"tenants.{field.at}" if field.at else "tenants"
    return UsageError(f"The setting tenants is wrong: {at}: {field.detail}.", [FieldError(at, field.detail)])


def _of_environment(name: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Variable that gives a setting, and its value. Raises `UsageError` where two do, or where its file is none."""
    variable = PREFIX + name.upper()
    text, path = environ.get(variable), environ.get(variable + OF_FILE)
    if name == "port" and text is not None and text.startswith("tcp://"):
        text = None
    if not path:
        return variable, text
    if text:
        raise UsageError(f"{variable} and {variable}{OF_FILE} are both set; expected one of them.")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_FILE_CHARS + 1)
    except OSError as error:
        raise UsageError(
            f"{path}, which {variable}{OF_FILE} names, can not be read: {error.strerror}."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}, which {variable}{OF_FILE} names, is not UTF-8.") from None
    if len(text) > MAX_FILE_CHARS:
        raise UsageError(
            f"{path}, which {variable}{OF_FILE} names, has more than {MAX_FILE_CHARS} characters."
        )
    return variable + OF_FILE, text.rstrip("\r\n")


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
    setting = declared_settings()[field.at]
    if setting.choices:
        field = FieldError(field.at, expected_one_of(str(values[field.at]), setting.choices))
    spellings = f"{setting.flag}, {setting.variable} or {setting.name} in the config file"
    return UsageError(f"The setting {setting.name} is wrong: {field.detail} ({spellings}).", [field])


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
            too_deep = nesting_error(values) is not None
    except OSError as error:
        raise UsageError(f"The config file {path} can not be read: {error.strerror}.") from None
    except RecursionError:
        too_deep = True
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The config file {path} is not TOML: {error}.") from None
    if too_deep:
        raise UsageError(f"The config file {path} is nested too deep: {TOO_DEEP}.")
    return values
