"""Registry: models, their versions and statuses, as a fold of the common log.

A command (`register`, `move`, `rollback`, `patch`) checks the present state and returns the event to append;
`apply` is the only thing that changes it. The common log holds

    e  ExperimentAnnounced   an experiment's log exists from now on
    m  ModelChanged          versions as they are from now on, and which one is in production
    l  LayerChanged          an experiment's slots of a layer from now on
    d  MetricDefined         the definition of a metric in the catalogue from now on
    p  PromotionMoved        a promotion as it is from now on, with the change of its model that belongs to it
    k  KeyCreated            a caller's key from now on
    x  KeyRevoked            a caller's key that is refused from now on
    f  Repaired              an experiment that was set aside is to be folded anew, or is given up; or one is deleted
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.documents import document_fault
from bandit_serve.errors import Conflict, FieldError, InvalidInput, NotFound
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.owner import successor
from bandit_serve.log.repairs import Repaired, Repairs
from bandit_serve.log.snapshot import Codec, reading
from bandit_serve.models.onnx.signature import Signature
from bandit_serve.registry import api_keys, definitions, layers, promotions
from bandit_serve.registry.api_keys import KeyCreated, KeyRevoked, Keys
from bandit_serve.registry.definitions import Catalogue, MetricDefined
from bandit_serve.registry.layers import LayerChanged, Layers
from bandit_serve.registry.promotions import Promotion, Promotions
from bandit_serve.upstreams.upstream import Upstream

VersionStatus = Literal["training", "staged", "shadow", "production", "retired", "failed"]

MOVES: Mapping[VersionStatus, tuple[VersionStatus, ...]] = {
    "training": ("staged", "failed"),
    "staged": ("shadow", "production", "retired", "failed"),
    "shadow": ("staged", "production", "retired", "failed"),
    "production": ("retired", "failed"),
    "retired": ("staged",),
    "failed": (),
}
SERVABLE: tuple[VersionStatus, ...] = ("staged", "shadow", "production", "retired")
MAX_HISTORY = 10_000
REMOTE = "remote"
ANNOUNCED, MODEL, LAYER, DEFINED, REPAIRED = b"e", b"m", b"l", b"d", b"f"
KEY_CREATED, KEY_REVOKED, PROMOTION = b"k", b"x", b"p"
REVISIONS = frozenset({MODEL, LAYER, DEFINED, KEY_CREATED, KEY_REVOKED, PROMOTION})
"""Kinds of events that are compared with the registry's revision, and counted in it."""


class Version(Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a model. `sha256`, `size` (bytes) and `family` are of its artifact, which is gone if `pruned`.

    `signature` is of an ONNX graph, whose family is `onnx`. The answers of a version with `remote` come from there. It
    has no artifact, its `sha256` is empty and its `family` is `REMOTE`. Where a deployment serves it, it may have one,
    which answers again when that ends. Others are written without these fields, as builds that do not know them wrote
    them.
    """

    model: str
    version: str
    status: VersionStatus
    sha256: str
    size: int
    family: str
    created_ms: int
    updated_ms: int
    metrics: dict[str, float] = {}
    metadata: dict[str, Any] = {}
    reason: str | None = None
    pruned: bool = False
    signature: Signature | UnsetType = UNSET
    remote: Upstream | UnsetType = UNSET


class ModelHistoryEntry(Struct, frozen=True, forbid_unknown_fields=True):
    at_ms: int
    what: str
    who: str
    version: str
    status: VersionStatus
    reason: str | None = None


class ExperimentAnnounced(Struct, frozen=True, forbid_unknown_fields=True):
    """Announcement of an experiment. `experiment` is the owner of its log."""

    experiment: str


class ModelChanged(Struct, frozen=True, forbid_unknown_fields=True):
    """Change of a model. `because` names the cause, `experiment:revision`, of changes that must happen once."""

    model: str
    versions: tuple[Version, ...]
    production: str | None
    former: tuple[str, ...]
    what: str
    who: str
    because: str | None = None


class PromotionMoved(Struct, frozen=True, forbid_unknown_fields=True):
    """Promotion as it is from now on, and with it the change of its model: both in one entry, or neither."""

    promotion: Promotion
    change: ModelChanged | UnsetType = UNSET


class RegisteredModel(Struct, forbid_unknown_fields=True):
    """Model and its versions. `former` were in production before, oldest first: rollback returns to one of these."""

    name: str
    versions: dict[str, Version]
    production: str | None = None
    former: tuple[str, ...] = ()
    history: list[ModelHistoryEntry] = []


RegistryEvent = (
    ExperimentAnnounced
    | ModelChanged
    | LayerChanged
    | MetricDefined
    | KeyCreated
    | KeyRevoked
    | PromotionMoved
    | Repaired
)


class RegistryState(Struct, forbid_unknown_fields=True):
    revision: int
    experiments: list[str]
    models: dict[str, RegisteredModel]
    done: list[str]
    repairs: Repairs = msgspec.field(default_factory=Repairs)
    layers: Layers | UnsetType = UNSET
    metrics: Catalogue | UnsetType = UNSET
    keys: Keys | UnsetType = UNSET
    promotions: Promotions | UnsetType = UNSET


_CODEC = Codec(RegistryState, "the registry")


class Registry:
    """Models of a namespace and their promotions, layers of experiments, the catalogue of metrics, and callers' keys.

    `experiments` are the owners of logs that were announced and not deleted. `layers`, `metrics`, `keys` and
    `promotions` are each another object after each change.
    """

    def __init__(self) -> None:
        self.offset: Offset = START
        self.revision = 0
        self.experiments: dict[str, None] = {}
        self.models: dict[str, RegisteredModel] = {}
        self.repairs = Repairs()
        self.layers: Layers = {}
        self.metrics: Catalogue = {}
        self.keys: Keys = {}
        self.promotions: Promotions = {}
        self._done: dict[str, None] = {}

    def apply(self, offset: Offset, event: RegistryEvent) -> None:
        match event:
            case ExperimentAnnounced():
                if not self.repairs.is_deleted(event.experiment):
                    self.experiments[event.experiment] = None
            case ModelChanged():
                self.revision += 1
                self._changed(offset, event)
            case PromotionMoved():
                self.revision += 1
                self.promotions = promotions.with_promotion(self.promotions, event.promotion)
                if event.change is not UNSET:
                    self._changed(offset, event.change)
            case LayerChanged():
                self.revision += 1
                self.layers = layers.applied(self.layers, event, offset.time_ms)
            case MetricDefined():
                self.revision += 1
                self.metrics = definitions.applied(self.metrics, event, self.revision, offset.time_ms)
            case KeyCreated():
                self.revision += 1
                self.keys = api_keys.created(self.keys, event, offset.time_ms)
            case KeyRevoked():
                self.revision += 1
                self.keys = api_keys.revoked(self.keys, event, offset.time_ms)
            case Repaired():
                self.repairs.apply(offset, event)
                if event.way == "stop":
                    # Nobody is drawn for it any more.
                    self.layers = layers.without_owner(self.layers, event.experiment)
                if self.repairs.is_deleted(event.experiment):
                    self.experiments.pop(event.experiment, None)
        self.offset = offset

    def owner(self, name: str) -> str:
        """Owner of the log of the experiment of this name, or of the next one if all of that name are deleted."""
        owner = name
        while self.repairs.is_deleted(owner):
            owner = successor(owner)
        return owner

    def _changed(self, offset: Offset, event: ModelChanged) -> None:
        model = self.models.setdefault(event.model, RegisteredModel(event.model, {}, history=[]))
        for version in event.versions:
            model.versions[version.version] = version
            model.history.append(
                ModelHistoryEntry(
                    at_ms=offset.time_ms,
                    what=event.what,
                    who=event.who,
                    version=version.version,
                    status=version.status,
                    reason=version.reason,
                )
            )
        del model.history[:-MAX_HISTORY]
        model.production = event.production
        model.former = event.former
        if event.because is not None:
            self._done[event.because] = None

    def is_done(self, because: str) -> bool:
        return because in self._done

    def model(self, name: str) -> RegisteredModel:
        try:
            return self.models[name]
        except KeyError:
            raise NotFound(f"There is no model {name[:128]!r}.") from None

    def version(self, model: str, version: str) -> Version:
        try:
            return self.model(model).versions[version]
        except KeyError:
            raise NotFound(f"The model {model!r} has no version {version[:128]!r}.") from None

    def production(self, model: str) -> Version:
        """Version in production; `Conflict` while there is none."""
        record = self.model(model)
        if record.production is None:
            raise Conflict(f"The model {model!r} has no version in production; promote one.")
        return record.versions[record.production]

    def register(self, version: Version, who: str) -> ModelChanged:
        """Change that adds a version, `training` or `staged`."""
        model = self.models.get(version.model)
        if model is not None and version.version in model.versions:
            raise Conflict(f"The model {version.model!r} already has a version {version.version!r}.")
        if version.status not in ("training", "staged"):
            raise Conflict(f"A version starts as training or staged, not as {version.status}.")
        _check_documents(version)
        return ModelChanged(
            model=version.model,
            versions=(version,),
            production=model.production if model else None,
            former=model.former if model else (),
            what="register",
            who=who,
        )

    def next_version(self, model: str) -> str:
        """Name for a version that came without one: `v1`, `v2`, …"""
        taken = self.models[model].versions if model in self.models else {}
        number = len(taken) + 1
        while f"v{number}" in taken:
            number += 1
        return f"v{number}"

    def move(
        self,
        model: str,
        version: str,
        status: VersionStatus,
        *,
        now_ms: int,
        who: str,
        reason: str | None = None,
        because: str | None = None,
    ) -> ModelChanged:
        """Change of a version's status; promotion retires the version that was in production, in the same event."""
        subject = self.version(model, version)
        if subject.pruned:
            raise Conflict(f"The file of {version!r} of {model!r} was removed by retention.")
        if status not in MOVES[subject.status]:
            legal = ", ".join(MOVES[subject.status]) or "nothing: it is final"
            raise Conflict(
                f"A {subject.status} version can not become {status}; from {subject.status} it can become {legal}."
            )
        if status == "production":
            return self._promotion(subject, "promote", now_ms, who, reason, because)
        record = self.models[model]
        leaves = subject.status == "production"
        return ModelChanged(
            model=model,
            versions=(_with(subject, status, now_ms, reason),),
            production=None if leaves else record.production,
            former=(*record.former, version) if leaves else record.former,
            what="status",
            who=who,
            because=because,
        )

    def promote(
        self, model: str, version: str, *, now_ms: int, who: str, reason: str | None, because: str
    ) -> ModelChanged:
        """Change that a won experiment asks for.

        Nothing but a note where the version is in production already, or can not serve any more.
        """
        subject = self.version(model, version)
        if subject.status == "production" or subject.status not in SERVABLE:
            record = self.models[model]
            return ModelChanged(model, (), record.production, record.former, "promote", who, because)
        return self._promotion(subject, "promote", now_ms, who, reason, because)

    def deploy(
        self,
        version: Version,
        status: VersionStatus,
        *,
        now_ms: int,
        who: str,
        reason: str,
        because: str,
    ) -> ModelChanged | None:
        """Change by which a deployment serves a version, which has `status` from then on; None where it was made.

        `version` is as it is to be, with its upstream where requests go there, and may be new.
        """
        if self.is_done(because):
            return None
        record = self.models.get(version.model, RegisteredModel(version.model, {}))
        before = record.versions.get(version.version)
        require_deployable(before, status)
        if status == "production" and (before is None or before.status != "production"):
            return self._promotion(version, "deploy", now_ms, who, reason, because)
        changed = _with(version, status, now_ms, reason)
        return ModelChanged(
            version.model, (changed,), record.production, record.former, "deploy", who, because
        )

    def undeploy(
        self,
        model: str,
        version: str,
        status: Literal["retired", "failed"],
        *,
        now_ms: int,
        who: str,
        reason: str,
        because: str,
    ) -> ModelChanged | None:
        """Change that ends a version's deployment. Its file, if it has one, answers for it again.

        None where it was made before, or there is no such version. One that was moved meanwhile keeps its status.
        """
        record = self.models.get(model)
        subject = None if record is None else record.versions.get(version)
        if self.is_done(because) or record is None or subject is None:
            return None
        if subject.sha256:
            subject = msgspec.structs.replace(subject, remote=UNSET)
        moves = status in MOVES[subject.status]
        leaves = moves and subject.status == "production"
        return ModelChanged(
            model=model,
            versions=(_with(subject, status if moves else subject.status, now_ms, reason),),
            production=None if leaves else record.production,
            former=(*record.former, version) if leaves else record.former,
            what="undeploy",
            who=who,
            because=because,
        )

    def rollback(self, model: str, *, now_ms: int, who: str, reason: str | None = None) -> ModelChanged:
        """Puts the version that was in production before back into production."""
        record = self.model(model)
        former = [
            name
            for name in record.former
            if record.versions[name].status == "retired" and not record.versions[name].pruned
        ]
        if not former:
            raise Conflict(f"The model {model!r} has no former production version to roll back to.")
        subject = record.versions[former[-1]]
        versions = [_with(subject, "production", now_ms, reason)]
        if record.production is not None:
            versions.insert(0, _with(record.versions[record.production], "retired", now_ms, reason))
        return ModelChanged(
            model=model,
            versions=tuple(versions),
            production=subject.version,
            former=tuple(former[:-1]),
            what="rollback",
            who=who,
        )

    def prune(self, model: str, versions: Collection[str], *, now_ms: int, who: str) -> ModelChanged:
        """Versions without their files from now on."""
        record = self.model(model)
        gone = tuple(
            msgspec.structs.replace(record.versions[name], pruned=True, updated_ms=now_ms)
            for name in versions
        )
        return ModelChanged(model, gone, record.production, record.former, "prune", who)

    def patch(
        self,
        model: str,
        version: str,
        *,
        metrics: Mapping[str, float],
        metadata: Mapping[str, Any],
        now_ms: int,
        who: str,
    ) -> ModelChanged:
        """Metrics and metadata added to, or replaced in, what the version has."""
        subject, record = self.version(model, version), self.models[model]
        changed = msgspec.structs.replace(
            subject,
            metrics={**subject.metrics, **metrics},
            metadata={**subject.metadata, **metadata},
            updated_ms=now_ms,
        )
        _check_documents(changed)
        return ModelChanged(model, (changed,), record.production, record.former, "patch", who)

    def _promotion(
        self, subject: Version, what: str, now_ms: int, who: str, reason: str | None, because: str | None
    ) -> ModelChanged:
        record = self.models.get(subject.model, RegisteredModel(subject.model, {}))
        versions, former = [_with(subject, "production", now_ms, reason)], record.former
        if record.production is not None:
            predecessor = record.versions[record.production]
            versions.insert(0, _with(predecessor, "retired", now_ms, f"{subject.version} was promoted"))
            former = (*former, predecessor.version)
        return ModelChanged(subject.model, tuple(versions), subject.version, former, what, who, because)

    def state(self) -> bytes:
        return _CODEC.pack(
            RegistryState(
                self.revision,
                list(self.experiments),
                self.models,
                list(self._done),
                self.repairs,
                self.layers or UNSET,
                self.metrics or UNSET,
                self.keys or UNSET,
                self.promotions or UNSET,
            )
        )

    @classmethod
    def from_state(cls, offset: Offset, state: bytes) -> Registry:
        """Registry with this `state` at `offset`; `UnreadableEntry` for anything that is no such state."""
        fields = _CODEC.unpack(state)
        registry = cls()
        registry.offset, registry.revision, registry.models = offset, fields.revision, fields.models
        registry.repairs = fields.repairs
        if fields.layers is not UNSET:
            with reading("the registry"):
                layers.require_sound(fields.layers)
            registry.layers = fields.layers
        if fields.metrics is not UNSET:
            with reading("the registry"):
                definitions.require_sound(fields.metrics, fields.revision)
            registry.metrics = fields.metrics
        if fields.keys is not UNSET:
            with reading("the registry"):
                api_keys.require_sound(fields.keys)
            registry.keys = fields.keys
        if fields.promotions is not UNSET:
            with reading("the registry"):
                promotions.require_sound_promotions(fields.promotions)
            registry.promotions = fields.promotions
        # Builds that know of no deletion keep them.
        living = (owner for owner in fields.experiments if not registry.repairs.is_deleted(owner))
        registry.experiments = dict.fromkeys(living)
        registry._done = dict.fromkeys(fields.done)
        return registry


def require_deployable(version: Version | None, status: VersionStatus) -> None:
    """Raises `Conflict` where a deployment can not move a version, None if it is new, to `status`."""
    if version is None:
        return
    if version.pruned:
        raise Conflict(f"The file of {version.version!r} of {version.model!r} was removed by retention.")
    if version.status == "failed":
        raise Conflict(
            f"The version {version.version!r} of {version.model!r} has failed, which is final: register it anew."
        )
    if version.status == "production" and status != "production":
        raise Conflict(
            f"The version {version.version!r} of {version.model!r} is in production: promote another one first."
        )


def _check_documents(version: Version) -> None:
    for at, document in (("metrics", version.metrics), ("metadata", version.metadata)):
        fault = document_fault(document)
        if fault is not None:
            raise InvalidInput(f"{at}: {fault}.", [FieldError(at, fault)])


def _with(version: Version, status: VersionStatus, now_ms: int, reason: str | None) -> Version:
    return msgspec.structs.replace(version, status=status, updated_ms=now_ms, reason=reason)


_announced = msgspec.msgpack.Decoder(ExperimentAnnounced).decode
_model = msgspec.msgpack.Decoder(ModelChanged).decode
_layer = msgspec.msgpack.Decoder(LayerChanged).decode
_defined = msgspec.msgpack.Decoder(MetricDefined).decode
_key_created = msgspec.msgpack.Decoder(KeyCreated).decode
_key_revoked = msgspec.msgpack.Decoder(KeyRevoked).decode
_promoted = msgspec.msgpack.Decoder(PromotionMoved).decode
_repaired = msgspec.msgpack.Decoder(Repaired).decode


def decode_registry_event(kind: bytes, data: bytes) -> RegistryEvent:
    if kind == ANNOUNCED:
        return _announced(data)
    if kind == MODEL:
        return _model(data)
    if kind == LAYER:
        return _layer(data)
    if kind == DEFINED:
        return _defined(data)
    if kind == KEY_CREATED:
        return _key_created(data)
    if kind == KEY_REVOKED:
        return _key_revoked(data)
    if kind == PROMOTION:
        return _promoted(data)
    if kind == REPAIRED:
        return _repaired(data)
    raise ValueError(f"the common log holds an event of a kind that this build does not know: {kind!r}")
