"""Installations of this project and nothing that it does not ask for, made of links to what this environment has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from declared import ROOT, metadata_lines, project


class PlainInstall:
    """Site packages with some distributions, and interpreters that see those and the standard library alone."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        for name in names:
            files = metadata.distribution(name).files or []
            for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                source = Path(str(metadata.distribution(name).locate_file(top)))
                if source.exists() and not (folder / top).exists():
                    (folder / top).symlink_to(source)

    def add_checkout(self) -> None:
        """Adds this checkout, with the metadata that its wheel would have."""
        described = project()
        (self.folder / "bandit_serve").symlink_to(ROOT / "bandit_serve")
        (self.folder / "bandit_serve_client").symlink_to(ROOT / "clients" / "python" / "bandit_serve_client")
        self.add_metadata(described["name"], described["version"], metadata_lines(described))

    def add_metadata(self, name: str, version: str, lines: Iterable[str] = ()) -> None:
        about = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (about / "METADATA").write_text("\n".join([*head, *(f"Requires-Dist: {line}" for line in lines), ""]))

    @property
    def interpreter(self) -> Path:
        """Executable that is an interpreter in this installation."""
        script = self.folder / "python"
        if not script.exists():
            script.write_text(f'#!/bin/sh\nPYTHONPATH="{self.folder}" exec "{sys.executable}" -S "$@"\n')
            script.chmod(0o755)
        return script

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs an interpreter in this installation."""
        environment = {"PATH": os.environ["PATH"], "COLUMNS": "200"}
        return subprocess.run(
            [str(self.interpreter), *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
