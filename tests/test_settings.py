"""Settings: one name in flags, variables and the config file; an error names it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit_serve.cli.serve import serve
from bandit_serve.errors import UsageError
from bandit_serve.settings import (
    PREFIX,
    Settings,
    declared_settings,
    load_settings,
    load_with_sources,
    variables_for,
)

NAMES = Settings.__struct_fields__
DEFAULTS = Settings()

# Another value than the default, as a flag has it and as text.
OTHERS: dict[str, Any] = {
    "host": "::1",
    "port": 9000,
    "workers": 3,
    "store": "redis://h",
    "data": "elsewhere",
    "artifacts": "s3://bucket/models",
    "keep_units": True,
    "learn": True,
    "retrain": "films.yaml",
    "learners": "films,books",
    "insecure": True,
    "allowed_hosts": "bandits.internal,box:8000",
    "cors_origins": "https://shop.example,http://localhost:3000",
    "upstreams": "http://models.internal:8080,https://ml.example/v2",
    "webhooks": '[{"url":"https://alerts.example/h","events":["winner"],"secret":"env:S"}]',
    "docker": "unix:///run/engine.sock",
    "bundle": "/bundle",
    "max_connections": 7,
    "access_log": True,
    "log_level": "debug",
    "log_format": "json",
    "namespace": "other",
    "store_replicas": 1,
    "max_body": 2_048,
    "max_artifact": 4_096,
    "model_memory": 0,
    "retention_bytes": 2**21,
    "service_holdout": 0.05,
    "tenants": '{"shop":{"requests":5.0}}',
    "tls_cert": "/tls/tls.crt",
    "tls_key": "/tls/tls.key",
    "forwarded_allow": "10.0.0.0/8,::1,edge.internal",
    "otel_endpoint": "http://collector:4318",
    "otel_share": 0.25,
}
WRONG: dict[str, list[Any]] = {
    "port": [-1, 65_536, "http", 1.5],
    "workers": [0, 257, "many"],
    "insecure": ["perhaps"],
    "allowed_hosts": ["", "a,", "a b", "http://a", "a\n"],
    "cors_origins": ["", "*", "shop.example", "https://shop.example/", "https://a,", "null", "https://a\n"],
    "upstreams": [
        "",
        "*",
        "models",
        "http://a,",
        "http://a\n",
        "ftp://a",
        "http://a?b",
        "http://u@a",
        "http://a/../b",
    ],
    "webhooks": ["https://alerts.example/h", "{}", "[1", '{"url": "https://alerts.example/h"}'],
    "max_connections": [0, "many"],
    "learn": ["perhaps"],
    "retrain": ["", "a.yaml,", ",a.yaml", "a,,b", "a, b", "-a", "a.yaml\n"],
    "learners": ["", "films,", "a b", "films;books", "films\n"],
    "access_log": ["perhaps"],
    "log_level": ["loud", "info\n", ""],
    "namespace": ["", "a b", "a:b", "{a}", "x" * 65, "a\n"],
    "store_replicas": [-1, 17, "all"],
    "max_body": [1_023, "1k"],
    "max_artifact": [0],
    "model_memory": [-1],
    "retention_bytes": [1_000],
    "service_holdout": [-0.1, 0.6, "some"],
    "tenants": [
        "",
        "shop",
        "[]",
        '{"shop": 5}',
        '{"a b": {}}',
        '{"shop": {"speed": 1}}',
        '{"shop": {"requests": 0}}',
        '{"shop": {"burst": 0}}',
        '{"shop": {"log_bytes": 1}}',
    ],
    "forwarded_allow": ["", "a,", "a b", "10.0.0.0/33", "*"],
    "otel_endpoint": ["", "collector:4318", "http://u:p@a", "http://a\n"],
    "otel_share": [-0.1, 1.1, "some"],
}
DURATIONS = [name for name, setting in declared_settings().items() if setting.unit == "duration"]


def other(name: str) -> Any:
    return "123ms" if name in DURATIONS else OTHERS[name]


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def config(tmp_path: Path, **values: Any) -> str:
    path = tmp_path / "config.toml"
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]
    path.write_text("\n".join(lines))
    return str(path)


def test_defaults() -> None:
    settings = load_settings({}, environ={})
    assert settings == DEFAULTS
    assert settings.seconds("store_timeout") == 1.0
    assert settings.seconds("key_rotation") == 30 * 86_400
    assert settings.data_dir == Path("bandit-serve-data")


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_has_a_flag_with_its_default_in_the_help(name: str) -> None:
    parameters = inspect.signature(serve).parameters
    assert set(parameters) == {*NAMES, "config"}
    assert parameters[name].default is None, "a flag that was not given must not hide the variable"
    (option,) = inspect.get_annotations(serve, eval_str=True)[name].__metadata__
    default = getattr(DEFAULTS, name)
    if default is not None and not isinstance(default, bool):
        assert f"(default: {default})" in option.help


@pytest.mark.parametrize("name", NAMES)
def test_flags_are_stronger_than_variables_than_the_file_than_defaults(name: str, tmp_path: Path) -> None:
    value = other(name)
    assert value != getattr(DEFAULTS, name)
    unset = "http://unset" if name in ("cors_origins", "upstreams", "otel_endpoint") else "unset"
    default = unset if getattr(DEFAULTS, name) is None else getattr(DEFAULTS, name)
    text = {PREFIX + name.upper(): as_text(value)}
    weak = {PREFIX + name.upper(): as_text(default)}
    assert getattr(load_settings({name: value}, environ={}), name) == value
    assert getattr(load_settings({name: None}, environ=text), name) == value
    assert getattr(load_settings({}, environ={}, config=config(tmp_path, **{name: value})), name) == value
    assert getattr(load_settings({name: value}, environ=weak), name) == value
    path = config(tmp_path, **{name: default})
    assert getattr(load_settings({}, environ=text, config=path), name) == value
    assert getattr(load_settings({name: value}, environ={}, config=path), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values]
    + [(name, value) for name in DURATIONS for value in ("soon", "1s\n", "-1s", "")],
)
def test_what_is_wrong_is_named_wherever_it_comes_from(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=name):
        load_settings({name: value}, environ={})
    if value != "":  # which a variable may be: then it is none
        with pytest.raises(UsageError, match=name):
            load_settings({}, environ={PREFIX + name.upper(): as_text(value)})
    with pytest.raises(UsageError, match=name):
        load_settings({}, environ={}, config=config(tmp_path, **{name: value}))


def test_a_value_that_is_none_of_few_is_told_with_all() -> None:
    with pytest.raises(UsageError, match="did you mean debug\\? expected one of debug, info, warning, error"):
        load_settings({"log_level": "debgu"}, environ={})


def test_the_config_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    path = config(tmp_path, port=9000)
    assert load_settings({}, environ={f"{PREFIX}CONFIG": path}).port == 9000


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"[unfinished", None])
def test_a_config_file_that_can_not_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="broken"):
        load_settings({}, environ={}, config=str(path))


def test_a_setting_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prot"):
        load_settings({}, environ={}, config=config(tmp_path, prot=1))


def test_other_variables_are_none_of_ours() -> None:
    assert load_settings({}, environ={f"{PREFIX}TEST_DATA": "x", "PORT": "1"}) == DEFAULTS


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    empty = {PREFIX + name.upper(): "" for name in Settings.__struct_fields__}
    assert load_settings({}, environ=empty) == Settings()
    assert load_settings({}, environ=empty, config=config(tmp_path, workers=3)).workers == 3


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("BANDIT_SERVE_STOR", "Did you mean BANDIT_SERVE_STORE?"),
        ("BANDIT_SERVE_DATA_DIR", "Did you mean BANDIT_SERVE_DATA?"),
        ("BANDIT_SERVE_WORKER", "Did you mean BANDIT_SERVE_WORKERS?"),
        ("BANDIT_SERVE_Port", "Did you mean BANDIT_SERVE_PORT?"),
        ("Bandit_Serve_host", "Did you mean BANDIT_SERVE_HOST?"),
        ("BANDIT_SERVE_CONFG", "Did you mean BANDIT_SERVE_CONFIG?"),
        ("BANDIT_SERVE_XYZZY", "is no setting and is not heeded."),
    ],
)
def test_a_variable_that_is_no_setting_is_warned_of(
    variable: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_settings({}, environ={variable: "1"}) == DEFAULTS
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"The variable {variable} ")
    assert warning.endswith(words)


def test_variables_of_others_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Kubernetes sets some for every service of a namespace: here for one that is called bandit-serve."""
    environ = {
        "BANDIT_SERVE_SERVICE_HOST": "10.0.0.1",
        "BANDIT_SERVE_SERVICE_PORT": "8000",
        "BANDIT_SERVE_SERVICE_PORT_HTTP": "8000",
        "BANDIT_SERVE_PORT": "tcp://10.0.0.1:8000",
        "BANDIT_SERVE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "BANDIT_SERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "BANDIT_SERVE_TEST_SCALE": "full",
        "BANDIT_SERVER": "x",
        "PATH": "/bin",
    }
    environ |= {PREFIX + name.upper(): "" for name in NAMES if name != "port"}
    assert load_settings({}, environ=environ) == DEFAULTS
    assert not caplog.records


def test_an_unknown_key_of_the_config_file_is_told_with_what_is_known(tmp_path: Path) -> None:
    path = config(tmp_path, stor="redis://h", prot=1)
    with pytest.raises(UsageError) as refused:
        load_settings({}, config=path, environ={})
    details = {error.at: error.detail for error in refused.value.errors}
    assert details["stor"].startswith("unknown setting: did you mean store? expected one of host, port, ")
    assert details["prot"].startswith("unknown setting: did you mean port? expected one of ")


@pytest.mark.parametrize("name", NAMES)
def test_a_value_may_be_in_a_file_that_a_variable_names(name: str, tmp_path: Path) -> None:
    value = OTHERS.get(name, "7m")
    file = tmp_path / "value"
    file.write_text(f"{as_text(value)}\n")
    variable = f"{PREFIX}{name.upper()}_FILE"
    loaded = load_with_sources({}, environ={variable: str(file)})
    assert getattr(loaded.settings, name) == value
    assert loaded.sources == {each: variable if each == name else "default" for each in NAMES}
    assert getattr(load_settings({}, environ={variable: ""}), name) == getattr(DEFAULTS, name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can not be read: No such file"),
        (b"\xff", "is not UTF-8"),
        (b"x" * 65_537, "more than 65536 characters"),
    ],
)
def test_a_file_that_has_no_value_is_named(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "value"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        load_settings({}, environ={f"{PREFIX}STORE_FILE": str(file)})
    assert f"{PREFIX}STORE_FILE" in str(refused.value)


def test_a_variable_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    environ = {f"{PREFIX}STORE": "redis://h", f"{PREFIX}STORE_FILE": str(tmp_path)}
    with pytest.raises(UsageError, match="BANDIT_SERVE_STORE and BANDIT_SERVE_STORE_FILE are both set"):
        load_settings({}, environ=environ)


def test_each_value_says_where_it_came_from(tmp_path: Path) -> None:
    path = config(tmp_path, port=9_000, workers=2, host="::1")
    environ = {f"{PREFIX}PORT": "9001", f"{PREFIX}WORKERS": "3"}
    loaded = load_with_sources({"port": 9_002, "data": None}, environ=environ, config=path)
    assert (loaded.settings.port, loaded.settings.workers, loaded.settings.host) == (9_002, 3, "::1")
    named = {name: loaded.sources[name] for name in ("port", "workers", "host", "data")}
    assert named == {"port": "--port", "workers": f"{PREFIX}WORKERS", "host": path, "data": "default"}
    assert loaded.config == path


def test_a_process_of_ours_has_what_it_is_given_whatever_gave_this_one_its_own(tmp_path: Path) -> None:
    own = {f"{PREFIX}STORE_FILE": str(tmp_path / "store"), f"{PREFIX}ARTIFACTS": "s3://own"}
    (tmp_path / "store").write_text("redis://own")
    assert load_settings({}, environ=own).store == "redis://own"
    of_child = {**own, **variables_for(store="redis://given", artifacts=None)}
    settings = load_settings({}, environ=of_child)
    assert (settings.store, settings.artifacts) == ("redis://given", "s3://own")
