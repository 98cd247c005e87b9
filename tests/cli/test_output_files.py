"""Files that commands write: opened before the work, and said in a sentence where that is not possible."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import bandit_serve
from http_calls import decide_many, running
from services import ThrowawayService

from bandit_serve.cli.output_file import output_file
from bandit_serve.errors import UsageError

PLAN = ("plan", "--rate", "0.1", "--effect", "5%", "--plot")
PLACES = ("{long}", "/proc/x", "{folder}/no/such/x", "{folder}", "{file}/x", "{loop}")


def place(pattern: str, folder: Path, ending: str) -> str:
    """A path at which no file can be written."""
    (folder / "file").touch()
    (folder / f"directory{ending}").mkdir(exist_ok=True)
    loop = folder / f"loop{ending}"
    if not loop.is_symlink():
        loop.symlink_to(loop)
    if pattern in ("{folder}", "{loop}"):
        return str(folder / f"directory{ending}" if pattern == "{folder}" else loop)
    return pattern.format(long="x" * 300, folder=folder, file=folder / "file") + ending


@pytest.mark.parametrize("pattern", PLACES)
def test_a_place_that_can_not_be_written_is_a_sentence(
    pattern: str, service: ThrowawayService, tmp_path: Path
) -> None:
    name = running(service)
    decide_many(service, name, ["u1", "u2"])
    for ending, asked in (
        (".svg", PLAN),
        (".html", ("experiments", "results", name, "--data", str(service.data), "--html")),
        (".html", ("simulate", "--seeds", "1", "--horizon", "10", "--plot")),
    ):
        path = place(pattern, tmp_path, ending)
        ran = bandit_serve(*asked, path)
        assert (ran.status, ran.out) == (2, ""), ran.err
        assert f"The file {path} can not be written: " in " ".join(ran.err.split("\n"))


def test_a_page_of_results_is_written(service: ThrowawayService, tmp_path: Path) -> None:
    name, page = running(service), tmp_path / "results.html"
    page.write_text("x" * 10_000_000)
    asked = ("experiments", "results", name, "--html", str(page), "--data", str(service.data))
    assert bandit_serve(*asked).status == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert page.read_text().rstrip().endswith("</html>")


def test_a_command_that_fails_leaves_no_file_and_none_changed(tmp_path: Path) -> None:
    new, old = tmp_path / "new.svg", tmp_path / "old.svg"
    old.write_text("as it was")
    for path in (new, old):
        assert bandit_serve("plan", "--rate", "7", "--effect", "5%", "--plot", path).status == 2
    assert os.listdir(tmp_path) == ["old.svg"]
    assert old.read_text() == "as it was"


def test_each_content_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "page"
    with output_file(path) as output:
        assert output is not None
        for content in ("a long first content é", b"short", "", "next"):
            output.write(content)
            assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)


def test_a_device_takes_what_is_written() -> None:
    with output_file(Path("/dev/null")) as output:
        assert output is not None
        output.write("content")
        output.write("content")
    assert Path("/dev/null").exists()


def test_no_file_is_none() -> None:
    with output_file(None) as output:
        assert output is None
    with pytest.raises(UsageError, match="can not be written"), output_file(Path("/proc/x")):
        raise AssertionError("it is not opened")
