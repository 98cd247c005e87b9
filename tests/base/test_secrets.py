"""Passwords in URLs: no argument, log, answer or error shows them. Answers name no path and no address of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from commands import bandit_serve, save_model
from http_calls import check_problem, decide, new_name, running, upload
from hypothesis import given
from hypothesis import strategies as st
from services import Answer, ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.base import secrets as module
from bandit_serve.base.secrets import concealed, know_secrets_of, shown_url
from bandit_serve.demo.service import DemoService
from bandit_serve.errors import StoreUnavailable, UsageError, in_full
from bandit_serve.models.remote import FsspecRemote
from bandit_serve.registry.api_keys import SECRET_CHARS, new_key
from bandit_serve.settings import Settings

PASSWORD, TOKEN = "pa55-word/of+store", "t0ken-of-artifacts"
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), TOKEN)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the secrets of other tests, and restores them afterwards."""
    monkeypatch.setattr(module, "_secrets", set())


@pytest.fixture
def guarded() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(tcp=True, options={"requirepass": PASSWORD}) as store:
        yield store


def url_of(store: ThrowawayStore) -> str:
    return f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{store.port}/0"


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def arguments_of_others() -> str:
    leaks = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name != str(os.getpid()):
            try:
                leaks.append(path.read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(leaks)


def test_a_service_tells_no_password_whatever_happens_to_it(guarded: ThrowawayStore, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    data = tmp_path / "data"
    places = f"{tmp_path}/models?token={TOKEN}"
    config = tmp_path / "config.toml"
    config.write_text(f'store = "{url_of(guarded)}"\nartifacts = "file://{places}"\nlearners = "m"\n')
    answers: list[Answer] = []
    with ThrowawayService(data, "--config", str(config), "--log-level", "debug") as service:

        def ask(method: str, path: str, body: object = None) -> Answer:
            answers.append(service.call(method, path, body))
            return answers[-1]

        artifact = save_model(tmp_path / "m").read_bytes()
        assert upload(service, "m", artifact).status == 201
        assert ask("POST", "/v1/models/m/versions/v1/status", {"status": "production"}).status == 200
        name = running(service, arms=[{"name": "a", "model": "m", "version": "v1"}])
        token = decide(service, name)["decision_id"]
        wait_until(lambda: "bandit_serve\0learn\0m" in arguments_of_others())
        assert secrets_in(arguments_of_others()) == []
        for page in ("/v1/stats", "/openapi.json", "/metrics", "/health/ready", "/v1/models/m"):
            assert ask("GET", page).status == 200

        os.rename(places, f"{places}-gone")
        Path(places).write_text("in the way")
        other = save_model(tmp_path / "other", (1.0, 2.0)).read_bytes()
        answers.append(upload(service, "m", other))
        check_problem(answers[-1], 503)
        next((data / "artifacts").glob("*.safetensors")).unlink()
        service.stop()
        os.unlink(places)
        service.start()
        check_problem(ask("POST", "/v1/models/m/predict", {"user_id": "0", "item_id": "0"}), 503)

        guarded.kill()
        check_problem(ask("POST", "/v1/rewards", {"decision_id": token, "value": 1.0}), 503)
        check_problem(ask("POST", "/v1/experiments", {"id": new_name()}), 400)
        check_problem(ask("POST", f"/v1/experiments/{name}/pause"), 503)
        ask("GET", "/health/ready")
        guarded.options["requirepass"] = "another"
        guarded.start(wait=False)
        wait_until(lambda: any("rejects the login" in line for line in service.output))
        check_problem(ask("POST", f"/v1/experiments/{name}/pause"), 503)
        for command in (["models", "list"], ["doctor"], ["doctor", "--json"], ["serve", "--port", "0"]):
            ran = bandit_serve(*command, "--data", data, "--config", config)
            assert secrets_in(ran.out + ran.err) == []
            assert ran.status != 0
    assert secrets_in("".join(service.output)) == []
    for answer in answers:
        text = str(answer.body)
        assert secrets_in(text) == [], text
        assert str(tmp_path) not in text
        assert not re.search(rf"127\.0\.0\.1:{guarded.port}|\b{guarded.port}\b", text), text


def test_the_demo_passes_no_password_in_arguments(
    guarded: ThrowawayStore, tmp_path: Path, known: None
) -> None:
    with DemoService(tmp_path / "data", store=url_of(guarded), port=0) as service:
        assert service.url
        assert secrets_in(arguments_of_others()) == []


def test_a_place_for_files_that_is_refused_is_named_without_its_secrets(known: None) -> None:
    pytest.importorskip("fsspec")
    url = f"ftp://somebody:{quote(PASSWORD, safe='')}@127.0.0.1:1/models?token={TOKEN}"
    with pytest.raises(UsageError, match=r"ftp://127\.0\.0\.1:1/models\?\*\*\*") as raised:
        FsspecRemote(url)
    assert secrets_in(str(raised.value)) == []
    assert secrets_in(repr(Settings(store=url, artifacts=url))) == []
    assert "127.0.0.1:1" in repr(Settings(store=url))


@given(password=st.text(min_size=3, max_size=40), token=st.text(min_size=3, max_size=40))
def test_whatever_a_password_is_it_is_hidden_as_it_stands_and_decoded(password: str, token: str) -> None:
    module._secrets.clear()
    try:
        quoted = quote(password, safe="", errors="surrogatepass")
        url = f"s3://key:{quoted}@bucket/x?token={quote(token, safe='', errors='surrogatepass')}"
        know_secrets_of(url)
        assert shown_url(url) == "s3://bucket/x?***"
        for text in (url, f"failed with {password!s} and {token!s}.", quoted):
            for secret in (quoted, quote(token, safe="")):
                assert secret not in concealed(text).replace(module.MASK, "") or secret in module.MASK
    finally:
        module._secrets.clear()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:a/b@h:1/0", "redis://h:1/0"),
        ("s3://key:secret@bucket", "s3://bucket"),
        ("simplecache::s3://key:secret@bucket/p", "simplecache::s3://bucket/p"),
        ("unix:///s?password=abc", "unix:///s?***"),
        ("file:///plain", "file:///plain"),
        ("sqlite:///db#x", "sqlite:///db?***"),
        ("/just/a/path", "/just/a/path"),
        ("key:secret@host", "***"),
        ("redis://:hunter/2#x@host:6379", "redis://***"),
        ("redis://:hunter?2@host:6379", "redis://***"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("redis://:hunter/2#x@host:6379", ["hunter/2#x", "hunter"]),
        ("redis://:hunter?two@host:6379", ["hunter?two", "hunter", "two"]),
        ("redis://:one/two@host:6379", ["one/two", "one", "two"]),
        ("https://h/p?token=abc+def&key=ab%2fcd", ["abc+def", "abc def", "ab%2fcd", "ab/cd"]),
        ("https://h/p?x=1&my%5Ftoken=abc==", ["abc=="]),
        ("redis://:pass@h/0?auth=tok@en", ["pass", "tok@en"]),
    ],
)
def test_what_is_secret_in_a_url_is_hidden_as_it_is_written_and_meant(
    url: str, secrets: list[str], known: None
) -> None:
    know_secrets_of(url)
    for secret in secrets:
        assert secret not in concealed(f"no {secret}: {url}")


@pytest.mark.parametrize("url", ["https://models.example:8080/bucket?user=a@b", "redis://host:6379/0"])
def test_what_is_no_secret_in_a_url_is_told(url: str, known: None) -> None:
    know_secrets_of(url)
    for word in ("models.example", "8080", "bucket", "host", "6379"):
        assert concealed(word) == word


def test_the_sentence_is_for_callers_and_the_rest_for_the_operator() -> None:
    error = StoreUnavailable("The store is not available now.").noted("Error 111 connecting to h:1")
    assert str(error) == "The store is not available now."
    assert in_full(error) == "The store is not available now. (Error 111 connecting to h:1)"


def test_a_callers_key_is_masked_wherever_it_stands() -> None:
    for _ in range(50):
        made = new_key("web", "admin", None, "cli:me")
        for text in (
            f"GET /v1/stats?key={made.text} HTTP/1.1",
            made.text,
            f"{{'{made.text}'}}",
            f"Bearer {made.text}x",
        ):
            shown = concealed(text)
            assert made.text[-SECRET_CHARS:] not in shown
            assert f"bsk_{made.event.id}_***" in shown
