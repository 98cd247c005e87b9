"""Checks of `doctor` on the data directory, the artifacts in it, and the experiments that serve them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bandit_serve.base.private_files import own_folder
from bandit_serve.base.secrets import concealed
from bandit_serve.cli.checks import Check, Verdict
from bandit_serve.cli.data_directory import data_directory_near
from bandit_serve.errors import BanditServeError, UsageError, in_full
from bandit_serve.folds.replica import Replica
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.family import load_model
from bandit_serve.models.onnx.file import FAMILY as ONNX
from bandit_serve.node import Node
from bandit_serve.registry.registry import SERVABLE, Registry, Version
from bandit_serve.settings import Settings

LITTLE, TOO_LITTLE = 2**30, 100 * 2**20
GIB = 2**30


def check_data_directory(settings: Settings) -> Check:
    directory = settings.data_dir.absolute()
    existing = _existing(directory)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        detail = f"{directory} can not be written"
        return Check("data", "problem", detail, "choose another with --data, or change its owner")
    if existing == directory:
        try:
            own_folder(directory)
        except UsageError as error:
            return Check(
                "data", "problem", str(error), "what others can change there, they can make us serve"
            )
    free = shutil.disk_usage(existing).free
    detail = f"{directory}, {free / GIB:.1f} GiB free"
    if free < LITTLE:
        verdict: Verdict = "problem" if free < TOO_LITTLE else "warning"
        return Check("data", verdict, detail, "free some space, or choose another directory with --data")
    meant = None if directory.exists() else data_directory_near(directory)
    if meant is not None:
        return Check("data", "warning", f"{directory} is not there yet", f"did you mean --data {meant}?")
    return Check("data", "ok", detail)


def _existing(path: Path) -> Path:
    """Returns the directory, or its nearest parent that exists, as the rest will be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def unusable_versions(node: Node) -> dict[tuple[str, str], str]:
    """Reasons why versions can not be loaded, by model and version. Remote artifacts are fetched."""
    wrong: dict[tuple[str, str], str] = {}
    by_artifact: dict[str, str | None] = {}
    settings = node.settings
    there = settings.artifacts is not None or (settings.data_dir / "artifacts").is_dir()
    artifacts = node.artifacts if there else None
    for version in _versions(node.replica.registry):
        if version.sha256 not in by_artifact:
            by_artifact[version.sha256] = _whats_wrong(artifacts, version.sha256)
        fault = by_artifact[version.sha256]
        if fault is not None:
            wrong[version.model, version.version] = fault
    return wrong


def _whats_wrong(artifacts: ArtifactStore | None, sha256: str) -> str | None:
    if artifacts is None:
        return "there is no directory artifacts"
    try:
        file = artifacts.open(sha256)
        if file.family != ONNX:
            load_model(file)
    except BanditServeError as error:
        return concealed(in_full(error)).rstrip(".")
    except OSError as error:
        return f"the artifact can not be read: {error.strerror}"
    return None


def check_artifacts(registry: Registry, wrong: dict[tuple[str, str], str]) -> Iterator[Check]:
    for version in _versions(registry):
        detail = wrong.get((version.model, version.version))
        if detail is not None:
            serves = version.status in SERVABLE
            advice = "copy its file to artifacts/ in the data directory, or register the model again"
            about = f"{version.model} {version.version} ({version.status}): {detail}"
            yield Check("artifacts", "problem" if serves else "warning", about, advice)
    if not wrong:
        count = sum(1 for _ in _versions(registry))
        versions = "version has its" if count == 1 else "versions have their"
        detail = f"{count} {versions} artifact, with the SHA-256 that was registered"
        yield Check("artifacts", "ok", detail if count else "no version is registered")


def check_state(replica: Replica) -> Iterator[Check]:
    """Checks for logs that can not be folded."""
    for name, aside in sorted(replica.aside.items()):
        if not aside.given_up:
            at = "" if aside.offset is None else f" at {aside.offset}"
            advice = f"run bandit-serve repair {name}"
            yield Check("state", "problem", f"{name} is set aside{at}: {aside.reason}", advice)


def check_experiments(replica: Replica, wrong: dict[tuple[str, str], str]) -> Iterator[Check]:
    taking = [
        live for _, live in sorted(replica.experiments.items()) if live.record.status in ("running", "paused")
    ]
    well = True
    for live in taking:
        for arm in live.experiment.arms:
            if arm.model is None or arm.version is None:
                continue
            version = replica.registry.version(arm.model, arm.version)
            detail = wrong.get((arm.model, arm.version))
            if version.status not in SERVABLE:
                detail = f"{arm.model} {arm.version} is {version.status}"
            if detail is not None:
                well = False
                about = (
                    f"{live.experiment.id} is {live.record.status}, but its arm {arm.name} can not serve: "
                )
                advice = "repair the model, or stop the experiment"
                yield Check("experiments", "problem", about + detail, advice)
    if well:
        yield Check(
            "experiments", "ok", f"{len(replica.experiments)}, of which {len(taking)} running or paused"
        )


def _versions(registry: Registry) -> Iterator[Version]:
    """Versions that should have a file; retention removes the files of others."""
    for _, model in sorted(registry.models.items()):
        yield from (version for version in model.versions.values() if not version.pruned)
