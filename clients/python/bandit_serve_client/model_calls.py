"""Calls about models and their versions, for asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bandit_serve_client import calls
from bandit_serve_client.calls import given
from bandit_serve_client.decisions import Features, Score
from bandit_serve_client.experiment_calls import Sending
from bandit_serve_client.models import Model, ModelSummary, Promotion, Version, VersionStatus


class ModelCalls:
    """Calls about models."""

    def __init__(self, send: Sending) -> None:
        self._send = send

    async def list(self) -> Sequence[ModelSummary]:
        """Lists all models by name."""
        page = await self._send(calls.models(None))
        listed = [*page.entries]
        while page.after is not None:
            page = await self._send(calls.models(page.after))
            listed += page.entries
        return listed

    async def show(self, model: str) -> Model:
        """Returns a model, its versions and its history."""
        return await self._send(calls.model(model))

    async def version(self, model: str, version: str) -> Version:
        return await self._send(calls.version(model, version))

    async def versions(
        self,
        model: str,
        *,
        status: Sequence[VersionStatus] = (),
        family: str | None = None,
        metric: Sequence[str] = (),
        text: str | None = None,
        sort: str | None = None,
    ) -> Sequence[Version]:
        """Finds versions by status, family, conditions on metrics such as `rmse<=0.9`, and text; newest first."""
        asked = {"status": [*status], "family": family, "metric": [*metric], "text": text, "sort": sort}
        query = {name: value for name, value in asked.items() if value}
        page = await self._send(calls.versions(model, query, None))
        listed = [*page.entries]
        while page.after is not None:
            page = await self._send(calls.versions(model, query, page.after))
            listed += page.entries
        return listed

    async def register(
        self,
        model: str,
        artifact: bytes | Path | None = None,
        *,
        version: str | None = None,
        status: VersionStatus | None = None,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        remote: Mapping[str, Any] | None = None,
    ) -> Version:
        """Registers a version: an artifact, its bytes or its file, or with `remote` one that is served elsewhere.

        The artifact is read into memory. `version` is `v1`, `v2`, … unless it is given.
        """
        described = given(version=version, status=status, metrics=metrics, metadata=metadata, remote=remote)
        content = artifact.read_bytes() if isinstance(artifact, Path) else artifact
        return await self._send(calls.register(model, described, content))

    async def status(
        self, model: str, version: str, status: VersionStatus, *, reason: str | None = None
    ) -> Version:
        """Moves a version to another status."""
        return await self._send(calls.set_status(model, version, status, reason))

    async def promote(self, model: str, version: str, *, reason: str | None = None) -> Version:
        """Makes a version the production version."""
        return await self._send(calls.set_status(model, version, "production", reason))

    async def begin_promotion(self, model: str, version: str, plan: Mapping[str, Any]) -> Promotion:
        """Begins a version's way into production by the steps of a plan, which then goes on by itself."""
        return await self._send(calls.begin_promotion(model, version, plan))

    async def promotions(self, model: str) -> Sequence[Promotion]:
        """Lists the promotions of a model's versions, the newest first."""
        return await self._send(calls.promotions(model))

    async def promotion(self, model: str, id: str) -> Promotion:
        """Returns a promotion, with the evidence of its steps."""
        return await self._send(calls.promotion(model, id))

    async def cancel_promotion(self, model: str, id: str, *, reason: str | None = None) -> Promotion:
        """Ends a promotion at the step where it is."""
        return await self._send(calls.cancel_promotion(model, id, reason))

    async def describe(
        self,
        model: str,
        version: str,
        *,
        metrics: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Version:
        """Adds metrics and metadata to a version."""
        return await self._send(calls.describe(model, version, metrics or {}, metadata or {}))

    async def rollback(self, model: str, *, reason: str | None = None) -> Model:
        """Puts the former production version back."""
        return await self._send(calls.rollback(model, reason))

    async def score(
        self,
        model: str,
        user_id: str | None = None,
        *,
        version: str | None = None,
        item_id: str | None = None,
        item_ids: Sequence[str] | None = None,
        k: int | None = None,
        exclude: Sequence[str] = (),
        features: Features | None = None,
    ) -> Score:
        """Predicts with a version, the production version unless it is named; there is no experiment in it."""
        return await self._send(calls.score(model, version, user_id, item_id, item_ids, k, exclude, features))
