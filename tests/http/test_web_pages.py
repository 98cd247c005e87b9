"""Web page of another origin in a real browser: it changes nothing and reads nothing, even by DNS rebinding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browsers import chromium
from http_calls import running, upload
from services import ThrowawayService

from bandit_serve.models import MatrixFactorization

EVIL = "evil.test"
# The page's own name leads to this machine: what DNS rebinding achieves.
REBINDING = f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"
PAGE = b"<!doctype html><title>a page</title><link rel=icon href='data:,'><body></body>"

# Each tries one thing and says what it got to read; `null` where the browser or the service did not let it.
ATTEMPTS = {
    "stop as text": """fetch(`${url}/v1/experiments/${name}/stop`, {method: 'POST', mode: 'no-cors',
        headers: {'Content-Type': 'text/plain'}, body: '{"winner": "challenger"}'}).then(read)""",
    "stop without a type": """fetch(`${url}/v1/experiments/${name}/stop`, {method: 'POST', mode: 'no-cors',
        body: new Blob(['{"winner": "challenger"}'])}).then(read)""",
    "stop with nothing": """fetch(`${url}/v1/experiments/${name}/stop`,
        {method: 'POST', mode: 'no-cors'}).then(read)""",
    "stop by beacon": """navigator.sendBeacon(`${url}/v1/experiments/${name}/stop`, new Blob([]))""",
    "stop as JSON": """fetch(`${url}/v1/experiments/${name}/stop`, {method: 'POST',
        headers: {'Content-Type': 'application/json'}, body: '{"winner": "challenger"}'}).then(read)""",
    "remove an arm": """fetch(`${url}/v1/experiments/${name}/arms/challenger`, {method: 'DELETE'}).then(read)""",
    "upload": """(() => {
        const form = new FormData();
        form.append('metadata', '{"version": "evil"}');
        form.append('artifact', new Blob([new Uint8Array(artifact)]), 'm.safetensors');
        return fetch(`${url}/v1/models/ranker/versions`, {method: 'POST', mode: 'no-cors', body: form}).then(read);
    })()""",
    "upload by a form": """new Promise((done) => {
        const frame = document.createElement('iframe');
        frame.name = 'sink';
        document.body.append(frame);
        const form = document.createElement('form');
        Object.assign(form, {method: 'POST', target: 'sink', enctype: 'multipart/form-data',
                             action: `${url}/v1/models/ranker/versions`});
        const metadata = document.createElement('textarea');
        Object.assign(metadata, {name: 'metadata', value: '{"version": "formed"}'});
        const artifactInput = document.createElement('input');
        Object.assign(artifactInput, {name: 'artifact', type: 'file'});
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(artifact)], 'm.safetensors'));
        artifactInput.files = files.files;
        form.append(metadata, artifactInput);
        document.body.append(form);
        frame.onload = () => done(null);
        form.submit();
        setTimeout(() => done(null), 3000);
    })""",
    "promote": """fetch(`${url}/v1/models/ranker/versions/v1/status`, {method: 'POST', mode: 'no-cors',
        body: new Blob(['{"status": "production"}'])}).then(read)""",
    "read": "fetch(`${url}/v1/stats`).then(read)",
    "read the experiment": "fetch(`${url}/v1/experiments/${name}`).then(read)",
    "image": """new Promise((done) => {
        const image = document.createElement('img');
        image.onload = () => done('loaded');
        image.onerror = () => done(null);
        image.src = `${url}/v1/stats`;
    })""",
    "script": """new Promise((done) => {
        const script = document.createElement('script');
        script.onload = () => done('loaded');
        script.onerror = () => done(null);
        script.src = `${url}/v1/models`;
        document.body.append(script);
    })""",
}
RUN = """async ([url, name, artifact]) => {
    const read = async (answer) => answer.type !== 'opaque' && answer.ok ? await answer.text() : null;
    try { return await (%s) } catch (error) { return null }
}"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """Port of a foreign web server."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = Path(tmp_path_factory.mktemp("model")) / "m.safetensors"
    users, items = [f"u{i % 9}" for i in range(99)], [f"i{i % 11}" for i in range(99)]
    ratings = [float(i % 5) for i in range(99)]
    MatrixFactorization(n_factors=2, seed=1, n_epochs=2).fit(users, items, ratings).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(REBINDING) as launched:
        yield launched


def state(service: ThrowawayService, name: str) -> dict[str, Any]:
    return {
        "experiment": service.call("GET", f"/v1/experiments/{name}").body,
        "history": service.call("GET", f"/v1/experiments/{name}/history").body,
        "ranker": service.call("GET", "/v1/models/ranker").body,
    }


@pytest.mark.parametrize("origin", ["another site", "another port", "rebound"])
def test_a_page_of_another_origin_changes_nothing_and_reads_nothing(
    browser: Any, service: ThrowawayService, elsewhere: int, artifact: bytes, origin: str
) -> None:
    name = running(service)
    assert upload(service, "ranker", artifact).status == 201
    host = "localhost" if origin == "another port" else EVIL
    url = f"http://{EVIL if origin == 'rebound' else 'localhost'}:{service.port}"
    before = state(service, name)
    page = browser.new_page()
    page.goto(f"http://{host}:{elsewhere}/")
    if origin == "rebound":
        # What the service says to its own name in the browser's eyes; the attempts run on that page, same origin.
        answer = page.goto(f"{url}/v1/stats")
        assert answer is not None
        assert answer.status == 403
    got = {
        what: page.evaluate(RUN % attempt, [url, name, list(artifact)]) for what, attempt in ATTEMPTS.items()
    }
    page.close()
    got.pop("stop by beacon")
    assert got == dict.fromkeys(got), "what the page could read"
    assert state(service, name) == before


def test_a_page_of_our_own_origin_may_do_what_others_may_not(browser: Any, service: ThrowawayService) -> None:
    """Shows that the refusals above are for the page's origin, and not for the form of its requests."""
    name = running(service)
    url = f"http://localhost:{service.port}"
    page = browser.new_page()
    page.goto(f"{url}/health/live")
    assert page.evaluate(RUN % ATTEMPTS["read"], [url, name, []]) is not None
    assert page.evaluate(RUN % ATTEMPTS["stop as JSON"], [url, name, []]) is not None
    page.close()
    assert service.call("GET", f"/v1/experiments/{name}").body["status"] == "stopped"
