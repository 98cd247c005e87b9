"""Mirror of the registry's versions in an MLflow server, as runs, model versions and aliases; and the way back."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import UNSET

from bandit_serve.base.extras import require
from bandit_serve.base.secrets import concealed, know_secrets_of, shown_url
from bandit_serve.errors import BanditServeError, InvalidInput, NotFound, Unavailable
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.foreign_files import HEAD_BYTES, foreign_sentence
from bandit_serve.registry.registry import RegisteredModel, Version

CHAMPION, CHALLENGER = "champion", "challenger"
OURS = "bandit_serve.version"
ARTIFACT_PATH = "model"
REFERENCE = re.compile(r"(?:models:/)?([^/@]+)(?:@([^/@]+)|/(\d+))")
MAX_TEXT = 500


class MlflowMirror:
    """Writes to the tracking server at `uri` (http://…, or sqlite:///… and so on for MLflow's own stores).

    `UsageError` where MLflow is not installed, `Unavailable` where it does not do what is asked.
    """

    def __init__(self, uri: str) -> None:
        know_secrets_of(uri)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        # A command's output is its own.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        mlflow = require("mlflow", "mlflow")
        self._download = mlflow.artifacts.download_artifacts
        self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._uri = uri

    def mirror(self, model: RegisteredModel, artifacts: ArtifactStore) -> dict[str, str]:
        """Mirrors every version that is not there yet, with its record and its file; and the aliases.

        `@champion` is the version in production, `@challenger` the newest that is staged or a shadow. Returns MLflow's
        number of each version.
        """
        with _told(self._uri):
            return self._mirror(model, artifacts)

    def _mirror(self, model: RegisteredModel, artifacts: ArtifactStore) -> dict[str, str]:
        known = self._known(model.name)
        for version in model.versions.values():
            if version.version not in known and not version.pruned and version.status != "training":
                known[version.version] = self._log(version, artifacts.path(version.sha256))
        waiting = [one for one in model.versions.values() if one.status in ("staged", "shadow")]
        newest = max(waiting, key=lambda one: (one.created_ms, one.version), default=None)
        self._alias(model.name, CHAMPION, known.get(model.production or ""))
        self._alias(model.name, CHALLENGER, None if newest is None else known.get(newest.version))
        for name, number in known.items():
            self._client.set_model_version_tag(
                model.name, number, "bandit_serve.status", model.versions[name].status
            )
        return known

    def fetch(self, reference: str, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Model file of `name@alias` or `name/number`, into a folder; and where it came from, for the record.

        `InvalidInput` for another reference and where there is not just one file that could be served, `NotFound`.
        """
        match = REFERENCE.fullmatch(reference)
        if match is None:
            raise InvalidInput(f"A version in MLflow is name@alias or name/number, not {reference[:100]!r}.")
        with _told(self._uri):
            return self._fetch(reference, match[1], match[2], match[3], folder)

    def _fetch(
        self, reference: str, name: str, alias: str | None, number: str | None, folder: Path
    ) -> tuple[Path, dict[str, Any]]:
        try:
            if alias is not None:
                version = self._client.get_model_version_by_alias(name, alias)
            else:
                version = self._client.get_model_version(name, number)
        except Exception as error:
            if getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise NotFound(f"MLflow has no {reference!r}.") from None
            raise
        place = self._client.get_model_version_download_uri(name, version.version)
        fetched = Path(self._download(artifact_uri=place, dst_path=str(folder), tracking_uri=self._uri))
        about = {
            "name": name,
            "version": str(version.version),
            "run_id": version.run_id,
            "uri": shown_url(self._uri),
        }
        metrics = (
            _metrics_of(self._client.get_run(version.run_id).data.metrics)
            if version.run_id
            else {"metrics": {}}
        )
        return _model_file(fetched, reference), {"mlflow": about, **metrics}

    def _known(self, name: str) -> dict[str, str]:
        """Our names of the versions that are there already, and MLflow's numbers."""
        try:
            self._client.get_registered_model(name)
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(name, description="Mirrored from bandit_serve.")
        versions = self._client.search_model_versions(f"name='{name}'")
        return {each.tags[OURS]: str(each.version) for each in versions if OURS in each.tags}

    def _log(self, version: Version, file: Path) -> str:
        """Logs one run and one model version; returns the version's number."""
        client, record = self._client, version.metadata.get("training")
        record = record if isinstance(record, dict) else {}
        experiment = client.get_experiment_by_name(version.model)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(version.model)
        tags = {"mlflow.runName": f"{version.model} {version.version}", OURS: version.version}
        tags |= {f"bandit_serve.{name}": value for name, value in _tags(version, record).items()}
        run = client.create_run(experiment_id, tags=tags)
        for name, value in (record.get("parameters") or {}).items():
            client.log_param(run.info.run_id, name, value)
        for name, value in version.metrics.items():
            client.log_metric(run.info.run_id, name.replace("@", "_at_"), value)
        with TemporaryDirectory() as folder:
            named = Path(folder) / (file.name if version.signature is UNSET else "model.onnx")
            named.symlink_to(file.absolute())
            client.log_artifact(run.info.run_id, str(named), ARTIFACT_PATH)
        client.set_terminated(run.info.run_id, "FINISHED" if version.status != "failed" else "FAILED")
        made = client.create_model_version(
            version.model,
            source=f"{run.info.artifact_uri}/{ARTIFACT_PATH}",
            run_id=run.info.run_id,
            tags={OURS: version.version, "sha256": version.sha256},
            description=(version.reason or "")[:MAX_TEXT],
        )
        return str(made.version)

    def _alias(self, name: str, alias: str, number: str | None) -> None:
        if number is not None:
            self._client.set_registered_model_alias(name, alias, number)
        elif alias in self._client.get_registered_model(name).aliases:
            self._client.delete_registered_model_alias(name, alias)


def _model_file(place: Path, reference: str) -> Path:
    """The one file of a version that is served, or `InvalidInput` that says what to do with what is there instead."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    served = [path for path in files if path.suffix in (".safetensors", ".onnx")]
    if len(served) == 1:
        return served[0]
    if not served:
        for path in files:
            with open(path, "rb") as file:
                refusal = foreign_sentence(file.read(HEAD_BYTES))
            if refusal is not None:
                raise InvalidInput(f"{reference} has {path.name!r}: {refusal[0].lower()}{refusal[1:]}")
    raise InvalidInput(f"{reference} has {len(served)} safetensors or ONNX files; expected one.")


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turns what MLflow raises into a sentence."""
    try:
        yield
    except BanditServeError:
        raise
    except Exception as error:
        reason = concealed(" ".join(str(error).split()))[:300].rstrip(".")
        raise Unavailable(f"MLflow at {shown_url(uri)} did not do what was asked: {reason}.") from error


def _tags(version: Version, record: Mapping[str, Any]) -> dict[str, str]:
    data, code = record.get("data") or {}, record.get("code") or {}
    tags = {
        "family": version.family,
        "sha256": version.sha256,
        "data.source": data.get("source"),
        "data.ratings": data.get("ratings"),
        "data.sha256": data.get("sha256"),
        "code.version": code.get("bandit_serve"),
        "code.commit": code.get("commit"),
        "seed": record.get("seed"),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _metrics_of(metrics: Mapping[str, float]) -> dict[str, Any]:
    return {"metrics": {name.replace("_at_", "@"): value for name, value in metrics.items()}}
