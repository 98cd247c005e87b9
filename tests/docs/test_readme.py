"""The README's walk-through, run as it is written but for the port."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec.yaml
import pytest
from services import ThrowawayService, clean_environment

from bandit_serve.settings import Settings
from bandit_serve.training import read_plan

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.M | re.S)


def section(title: str) -> str:
    start = README.index(f"\n## {title}\n")
    end = README.find("\n## ", start + 1)
    return README[start : end if end >= 0 else None]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        found: int = probe.getsockname()[1]
    return found


def test_walk_through_runs_as_written(tmp_path: Path, port: int) -> None:
    blocks = FENCE.findall(section("Walk-through"))
    start = blocks.pop(0)
    assert start[1] == "bandit-serve serve --port 8000 --data bandit-serve-data\n"
    scripts = tmp_path / "bin"
    scripts.mkdir()
    command = scripts / "bandit-serve"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bandit_serve "$@"\n')
    command.chmod(0o755)
    (scripts / "python").symlink_to(sys.executable)
    environment = clean_environment()
    environment["PATH"] = os.pathsep.join([str(scripts), environment["PATH"]])
    outputs = []
    with ThrowawayService(tmp_path / "bandit-serve-data", port=port) as service:
        assert service.port == port
        for language, block in blocks:
            text = block.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            shell = (
                [sys.executable, "-c", text]
                if language == "python"
                else ["bash", "-euo", "pipefail", "-c", text]
            )
            done = subprocess.run(
                shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout)
    everything = "\n".join(outputs)
    assert '"accepted":1' in everything
    assert '"duplicates":1' in everything
    assert '"production":"v2"' in everything
    assert len(blocks) >= 7


def test_every_setting_is_in_the_table() -> None:
    table = section("Settings")
    for name in Settings.__struct_fields__:
        assert f"`{name}`" in table, name


def test_the_models_section_runs_as_written(tmp_path: Path) -> None:
    blocks = FENCE.findall(section("Models"))
    [python] = [block for language, block in blocks if language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", python],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "solaris" in done.stdout
    commands = [line for language, block in blocks if language == "sh" for line in block.splitlines()]
    told = subprocess.run(
        [sys.executable, "-m", "bandit_serve", "learn", "--help"],
        env={**clean_environment(), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    for flag in re.findall(r"--[a-z-]+", next(line for line in commands if "bandit-serve learn" in line)):
        assert flag in told
    [described] = re.findall(r"```yaml\n(.*?)```", section("Models"), re.S)
    plan = read_plan(msgspec.yaml.decode(described.encode()))
    assert plan.model == "films"
    assert plan.gate("production") is not None
