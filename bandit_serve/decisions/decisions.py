"""Path of a request through one worker: decide, score, respond."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from bandit_serve.api.decisions import (
    Context,
    Decided,
    DecidedColumns,
    DecideRequest,
    ModelName,
    OutsideReason,
    Placed,
    Predicted,
    PredictRequest,
    Scored,
    ScoreRequest,
)
from bandit_serve.base.clock import Clock, now_ms
from bandit_serve.base.names import check_all_outside, check_outside
from bandit_serve.base.repeated_warnings import RepeatedWarnings
from bandit_serve.base.turns import Turn
from bandit_serve.decisions.control_decider import ControlDecider
from bandit_serve.decisions.decider import Choice, Decider, no_context, require_finite
from bandit_serve.decisions.exposures import ExposureBuffer
from bandit_serve.decisions.interleaving import (
    credited,
    fair_coin,
    require_list,
    score_both,
    team_draft,
    uncredited,
)
from bandit_serve.decisions.membership import Membership, spans_of
from bandit_serve.decisions.outcomes import Outcome
from bandit_serve.decisions.retrial import RanOutOfTime, Retrial, is_blameless
from bandit_serve.decisions.shadows import Shadows
from bandit_serve.decisions.slots import only_decides, place_arms
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    ContentRefused,
    FieldError,
    InvalidInput,
    ModelLost,
    NotFound,
    Overloaded,
    UpstreamFailed,
    in_full,
)
from bandit_serve.folds._assignment import UnitSlots
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.owner import name_of
from bandit_serve.log.token import Keyring
from bandit_serve.registry.registry import Version
from bandit_serve.serving.kinds import (
    MAX_ROWS_AT_ONCE,
    check_of,
    max_output_bytes,
    patience_s,
    rows_at_once,
)
from bandit_serve.serving.loaded import LoadedModels, require_servable
from bandit_serve.serving.request_form import check_family_request, check_form, request_features
from bandit_serve.serving.servable import Check, Scores
from bandit_serve.store.keys import COMMON

log = logging.getLogger(__name__)

MAX_PATIENCE = 2
"""How often a request may take the longest time that an arm may: for one that hangs, and for one in its place."""


class Decisions:
    """Decides and scores for all experiments. Follows the replica, so each experiment has a decider that is current."""

    def __init__(
        self,
        replica: Replica,
        models: LoadedModels,
        incarnation: int,
        keyring: Keyring,
        *,
        shadows: Shadows | None = None,
        keep_pairs: bool = False,
        keep_units: bool = False,
        held_out: UnitSlots | None = None,
        clock: Clock = now_ms,
        at_once: bool = True,
    ) -> None:
        """Without `at_once`, `begin` is still to be run to its end."""
        self._held_out = held_out
        self._layers = replica.registry.layers
        self.keyring = keyring
        self._now_ms = clock
        self._shadows = shadows
        self._keep_pairs = keep_pairs
        self._keep_units = keep_units
        self.deciders: dict[str, Decider] = {}
        # By the owner of the log. An experiment that is set aside keeps its buffer, so its decisions are numbered on.
        self.exposures: dict[str, ExposureBuffer] = {}
        self.begun: set[str] = set()
        """Owners of the buffers in which a batch was begun and that are still to be flushed."""
        self._lost_before = 0
        self._aside: dict[str, ControlDecider] = {}
        self._replica = replica
        self._models = models
        self._incarnation = incarnation
        self._failures = RepeatedWarnings()
        self.content_refusals = 0
        if at_once:
            for _ in self.begin():
                pass

    def begin(self) -> Iterator[None]:
        """Makes the deciders of the experiments that are there, in pieces between which the replica must not change."""
        replica = self._replica
        for name, live in list(replica.experiments.items()):
            with replica.island(name):
                self._follow(live)
            yield
        for name in replica.aside:
            self._set_aside(name)
        replica.on_change(self._changed)
        replica.on_set_aside(self._set_aside)
        replica.on_deleted(self._forget)

    @property
    def exposures_lost(self) -> int:
        """Exposures that were dropped since this worker started."""
        return self._lost_before + sum(buffer.lost for buffer in self.exposures.values())

    def _forget(self, experiment: str, uid: int | None) -> None:
        self.deciders.pop(experiment, None)
        self._aside.pop(experiment, None)
        for owner in [owner for owner in self.exposures if name_of(owner) == experiment]:
            self._lost_before += self.exposures.pop(owner).lost

    def _changed(self, owner: str) -> None:
        if owner != COMMON:
            self._follow(self._replica.experiments[owner])
        elif self._layers is not self._replica.registry.layers:
            self._layers = self._replica.registry.layers
            for decider in self.deciders.values():
                membership = decider.membership
                if membership is not None and membership.spans != spans_of(decider.live.record, self._layers):
                    decider.admit(self._membership(decider.live))

    def _membership(self, live: LiveExperiment) -> Membership | None:
        return Membership.of(live.record, self._replica.registry.layers, self._held_out)

    def _follow(self, live: LiveExperiment) -> None:
        name = live.experiment.id
        decider = self.deciders.get(name)
        if decider is None:
            exposures, membership = self.exposures.get(live.owner), self._membership(live)
            decider = Decider(live, self._incarnation, self._now_ms, exposures, membership)
            decider.exposures.keeps_names = self._keep_units
            decider.exposures.on_begin = partial(self.begun.add, live.owner)
            self.deciders[name], self.exposures[live.owner] = decider, decider.exposures
            self._aside.pop(name, None)
        elif decider.live is not live or decider.revision != live.record.revision:
            decider.membership = self._membership(live)
            decider.renew(live)

    def _set_aside(self, owner: str, error: Exception | None = None) -> None:
        self.deciders.pop(owner, None)
        self._aside.pop(owner, None)
        record = self._replica.aside[owner].record
        if record is not None:
            self._aside[owner] = ControlDecider(record)

    def names(self) -> list[str]:
        """Names of all experiments that have a decider, in order."""
        return sorted({*self.deciders, *self._aside})

    def find(self, experiment: str) -> Decider | ControlDecider | None:
        """Decider of an experiment; None if there is none."""
        return self.deciders.get(experiment) or self._aside.get(experiment)

    def decider(self, experiment: str) -> Decider | ControlDecider:
        """Decider of an experiment. Raises `NotFound`, or `SetAside` where not even the arms are known."""
        decider = self.deciders.get(experiment)
        if decider is not None:
            return decider
        aside = self._aside.get(experiment)
        if aside is None:
            self._replica.experiment(experiment)
            raise AssertionError("every experiment of the replica has a decider")
        return aside

    def decide(self, experiment: str, request: DecideRequest) -> Decided:
        """Draws an arm, and records and signs the decision."""
        decider = self.decider(experiment)
        context = request.context
        x = decider.encoded(context, request.covariates)
        if decider.slots > 1:
            return self._decide_list(decider, request, x)
        choice = decider.choose(request.unit, request.eligible, x, context)
        token = decider.record(choice, self.keyring, self._now_ms(), name=request.unit)
        arm = choice.arm
        return Decided(
            token,
            experiment,
            decider.arm_names[arm],
            choice.propensity,
            decider.models[arm],
            decider.payloads[arm],
            choice.reason,
        )

    def _decide_list(
        self, decider: Decider | ControlDecider, request: DecideRequest, x: NDArray[np.float32] | None
    ) -> Decided:
        """List of arms. The unit of its places is the list, also where names of units are kept."""
        choices, time_ms = place_arms(decider, request, x), self._now_ms()
        placed = [
            Placed(
                decider.record(choice, self.keyring, time_ms),
                decider.arm_names[choice.arm],
                choice.propensity,
                decider.models[choice.arm],
                decider.payloads[choice.arm],
            )
            for choice in choices
        ]
        top = placed[0]
        return Decided(
            top.decision_id,
            decider.id,
            top.arm,
            top.propensity,
            top.model,
            top.payload,
            choices[0].reason,
            placed,
        )

    async def decide_columns(
        self, experiment: str, units: list[str], contexts: list[Context | None] | None
    ) -> DecidedColumns:
        """Decides for many units. `contexts` has one for each unit; without it all are empty."""
        decider = self.decider(experiment)
        if contexts is not None and len(contexts) != len(units):
            detail = f"expected as many as units, {len(units)}"
            raise InvalidInput(f"contexts: {detail}.", [FieldError("contexts", detail)])
        if decider.slots > 1:
            raise only_decides(decider)
        if decider.contextless and any(contexts or ()):
            raise no_context("contexts")
        if decider.features is None and not decider.covariates:
            if decider.membership is not None and decider.status == "running":
                return await self._decide_members(decider, decider.membership, units, contexts)
            tokens, arms, propensities = decider.decide_columns(units, self.keyring, self._now_ms())
            return DecidedColumns(tokens, arms, propensities, decider.arm_names)
        check_all_outside(units, "units")
        decision_ids, choices = [], []
        turn = Turn()
        for unit, context in zip(units, contexts or [{}] * len(units), strict=True):
            choices.append(decider.choose(unit, None, decider.encoded(context), context))
            decision_ids.append(decider.record(choices[-1], self.keyring, self._now_ms(), name=unit))
            if turn.over:
                await turn.give_way()
        return DecidedColumns(
            decision_ids,
            [choice.arm for choice in choices],
            [choice.propensity for choice in choices],
            decider.arm_names,
            _reasons([None if choice.reason is UNSET else choice.reason for choice in choices]),
        )

    async def _decide_members(
        self,
        decider: Decider,
        membership: Membership,
        units: list[str],
        contexts: list[Context | None] | None,
    ) -> DecidedColumns:
        """Decides for the units that are in the experiment; the others get control."""
        check_all_outside(units, "units")
        for context in contexts or ():
            require_finite(context or {})
        reasons = await membership.keeps_out_each(units, contexts)
        members = [i for i, reason in enumerate(reasons) if reason is None]
        drawn = decider.decide_columns([units[i] for i in members], self.keyring, self._now_ms())
        decision_ids: list[str | None] = [None] * len(units)
        arms, propensities = [decider.fallback] * len(units), [1.0] * len(units)
        for i, token, arm, propensity in zip(members, *drawn, strict=True):
            decision_ids[i], arms[i], propensities[i] = token, arm, propensity
        return DecidedColumns(decision_ids, arms, propensities, decider.arm_names, _reasons(reasons))

    def predict(self, experiment: str, request: PredictRequest) -> Predicted | Awaitable[Predicted]:
        """Decides and scores with the arm's version. Awaitable where scoring, or loading the version, takes long.

        The arm is drawn once, before any waiting, so that its propensity is the one that is logged. If its version
        fails, the arm is ejected and the request starts over among the others, as if it had arrived at that moment. An
        arm that refuses the request's content stays, but not for this request, and so does one that has too many
        requests under way. In all, a request takes at most `MAX_PATIENCE` times the longest time that one of the arms
        may take. Whether a request is refused does not depend on the draw: it passes the checks of all active arms
        first.

        Where the experiment has served metrics, an attempt that failed is logged as the decision that it was. One whose
        arm did not get its time is not: it says nothing of the arm.
        """
        decider = self.decider(experiment)
        if decider.slots > 1:
            raise only_decides(decider)
        for check in decider.checks or self._find_checks(decider):
            check(request)
        x = decider.encoded(request.context)
        if decider.interleaves and decider.status == "running":
            assert isinstance(decider, Decider)
            k, unit = require_list(request), _unit_of(request)
            outside = decider.outside(unit, None, request.context)
            if outside is not None:
                return self._score(decider, outside, request)
            if unit is not None:
                check_outside(unit, "unit")
            return self._interleave(decider, request, x, k)
        return self._predict(decider, request, x)

    async def _interleave(
        self, decider: Decider, request: PredictRequest, x: NDArray[np.float32] | None, k: int
    ) -> Predicted:
        """Drafts one list from those of both arms. Where only one arm has a list, the caller gets that."""
        draw = decider.draw
        assert draw is not None
        there = [arm for arm, share in enumerate(draw.propensities) if share > 0.0]

        def score(arm: int) -> Scores | Awaitable[Scores]:
            reference = decider.models[arm]
            assert reference is not None
            loaded = self._models.get(reference.id, reference.version)
            return self._load_and_score(reference, request) if loaded is None else loaded.score(request)

        answers = await score_both(lambda arm: score(arm) if arm in there else {})
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        for arm, answer in enumerate(answers):
            if isinstance(answer, Exception):
                if _is_of_the_request(answer):
                    raise answer
                self._note_failure(decider, Choice(arm, draw.propensities[arm], 0, draw, x), answer)
        lists = [[] if isinstance(answer, Exception) else answer.get("items", []) for answer in answers]
        able = [arm for arm in there if not isinstance(answers[arm], Exception)]
        if not able:
            raise failures[0]
        drafted = []
        if len(able) == 2 and decider.status == "running":
            drafted = team_draft((lists[0], lists[1]), k, fair_coin)
            items = credited(decider, draw, x, drafted, self.keyring, self._now_ms())
        else:
            items = uncredited(decider, lists[able[0]], able[0])
        first = drafted[0].team if drafted else able[0]
        return Predicted(
            None,
            decider.id,
            decider.arm_names[first],
            draw.propensities[first],
            decider.models[first],
            decider.payloads[first],
            items=items,
        )

    def check(self, experiment: str, request: PredictRequest) -> None:
        """Raises the error of a request that `predict` refuses before it draws an arm."""
        decider = self.decider(experiment)
        if decider.slots > 1:
            raise only_decides(decider)
        for check in decider.checks or self._find_checks(decider):
            check(request)
        if decider.interleaves and decider.status == "running":
            require_list(request)

    def max_output_bytes(self, experiment: str) -> int:
        """Bytes of `outputs` in the answer to one prediction, at most, whatever arm is drawn."""
        versions = self._versions(self.decider(experiment))
        return max(map(max_output_bytes, versions), default=0)

    def _find_checks(self, decider: Decider | ControlDecider) -> tuple[Check, ...]:
        """Checks of the arms that requests get, each once; kept with the decider if all their versions are known."""
        checks: dict[Check, None] = {}
        modelless: list[str] = []
        known = True
        for arm in decider.within_reach:
            reference = decider.models[arm]
            if reference is None:
                modelless.append(decider.arm_names[arm])
                continue
            try:
                version = self._replica.registry.version(reference.id, reference.version)
            except NotFound:
                known = False
            else:
                checks[check_of(version)] = None
        all_checks = (
            *(checks or [check_family_request]),
            *([partial(_refuse_to_predict, decider, modelless)] if modelless else []),
        )
        if known:
            decider.checks = all_checks
        return all_checks

    def _predict(
        self,
        decider: Decider | ControlDecider,
        request: PredictRequest,
        x: NDArray[np.float32] | None,
        retrial: Retrial | None = None,
    ) -> Predicted | Awaitable[Predicted]:
        eligible = request.eligible if retrial is None else retrial.eligible
        choice = decider.choose(_unit_of(request), eligible, x, request.context)
        return self._score(decider, choice, request, retrial)

    def _score(
        self,
        decider: Decider | ControlDecider,
        choice: Choice,
        request: PredictRequest,
        retrial: Retrial | None = None,
    ) -> Predicted | Awaitable[Predicted]:
        """Scores with the version of the arm that was drawn, and with another one's where that fails."""
        began_s = time.perf_counter() if decider.measured else 0.0
        reference = decider.models[choice.arm]
        assert reference is not None
        loaded = self._models.get(reference.id, reference.version)
        if loaded is None:
            coming = self._load_and_score(reference, request)
            return self._predict_later(decider, choice, request, coming, began_s, retrial)
        try:
            scores = loaded.score(request)
        except Exception as error:
            if _is_of_the_request(error):
                raise
            now_s = time.monotonic()
            retrial = self._after(decider, choice, request, error, began_s, now_s, retrial)
            return self._predict(decider, request, choice.x, retrial)
        if isinstance(scores, dict):
            return self._predicted(decider, choice, request, scores, began_s)
        return self._predict_later(decider, choice, request, scores, began_s, retrial)

    async def _predict_later(
        self,
        decider: Decider | ControlDecider,
        choice: Choice,
        request: PredictRequest,
        coming: Awaitable[Scores],
        began_s: float,
        retrial: Retrial | None,
    ) -> Predicted:
        since_s = time.monotonic()
        try:
            scores = await (coming if retrial is None else retrial.within(coming))
        except Exception as error:
            if _is_of_the_request(error):
                raise
            retrial = self._after(decider, choice, request, error, began_s, since_s, retrial)
            again = self._predict(decider, request, choice.x, retrial)
            return again if isinstance(again, Predicted) else await again
        return self._predicted(decider, choice, request, scores, began_s)

    async def _load_and_score(self, reference: ModelName, request: ScoreRequest) -> Scores:
        version = self._replica.registry.version(reference.id, reference.version)
        try:
            async with asyncio.timeout(patience_s(version)):
                loaded = await self._models.load(version)
        except TimeoutError:
            raise ModelLost(f"{reference.id} {reference.version} is not ready yet.") from None
        scores = loaded.score(request)
        return scores if isinstance(scores, dict) else await scores

    def _after(
        self,
        decider: Decider | ControlDecider,
        choice: Choice,
        request: PredictRequest,
        error: Exception,
        began_s: float,
        since_s: float,
        retrial: Retrial | None,
    ) -> Retrial:
        """How a request goes on whose arm failed with `error`, which is raised where it can not.

        began_s: when the arm was drawn, if that is measured. since_s: when the request began to wait.
        """
        if decider.measured and not is_blameless(error):
            outcome, name = _outcome(began_s, failed=True), request.unit or request.user_id
            decider.record(choice, self.keyring, self._now_ms(), outcome=outcome, name=name)
        if retrial is None:
            eligible = [decider.arm_names[arm] for arm in decider.active]
            if request.eligible is not None:
                eligible = [name for name in eligible if name in request.eligible]
            retrial = Retrial(eligible, since_s + MAX_PATIENCE * self._patience_s(decider))
        others = retrial.go_on_without(decider.arm_names[choice.arm], error)
        if isinstance(error, RanOutOfTime):
            raise error
        others &= self._note_failure(decider, choice, error)
        if not others or choice.draw is None or retrial.left_s <= 0.0:
            raise error if retrial.failure is None else retrial.failure
        return retrial

    def _note_failure(self, decider: Decider | ControlDecider, choice: Choice, error: Exception) -> bool:
        """Ejects the arm unless the failure says nothing of it; returns whether another can be drawn in its place."""
        if isinstance(error, ContentRefused):
            self.content_refusals += 1
            self._say(decider, choice, error)
            return True
        return isinstance(error, Overloaded) or self._eject(decider, choice, error)

    def rows_at_once(self, experiment: str) -> int:
        """Requests of one batch that are under way together, so that they do not wait for each other at one arm."""
        decider = self.decider(experiment)
        bounds = [rows_at_once(version) for version in self._versions(decider)]
        return min(bounds, default=MAX_ROWS_AT_ONCE)

    def _patience_s(self, decider: Decider | ControlDecider) -> float:
        """Longest time in seconds that an active arm may take for a request; infinity if none has such a bound."""
        bounds = map(patience_s, self._versions(decider))
        return max((bound for bound in bounds if bound is not None), default=math.inf)

    def _versions(self, decider: Decider | ControlDecider) -> list[Version]:
        """Versions of the active arms, as far as they are known here."""
        versions = []
        for reference in (decider.models[arm] for arm in decider.active):
            with contextlib.suppress(NotFound):
                if reference is not None:
                    versions.append(self._replica.registry.version(reference.id, reference.version))
        return versions

    def _eject(self, decider: Decider | ControlDecider, choice: Choice, error: Exception) -> bool:
        """Ejects an arm whose version failed; returns whether another can be drawn in its place."""
        if isinstance(error, UpstreamFailed):
            self._say(decider, choice, error)
        elif not isinstance(error, ModelLost):  # which the loader has logged already
            arm = decider.arm_names[choice.arm]
            log.warning("the model of the arm %s of %s failed", arm, decider.id, exc_info=error)
        return decider.eject(choice)

    def _say(self, decider: Decider | ControlDecider, choice: Choice, error: BanditServeError) -> None:
        experiment, arm = decider.id, decider.arm_names[choice.arm]
        about = (experiment, arm, type(error).__name__)
        self._failures.say(log, about, f"the arm {arm} of {experiment}: {in_full(error)}")

    def _predicted(
        self,
        decider: Decider | ControlDecider,
        choice: Choice,
        request: PredictRequest,
        scores: Scores,
        began_s: float,
    ) -> Predicted:
        reference = decider.models[choice.arm]
        outcome = _outcome(began_s, failed=False) if decider.measured else None
        if self._shadows is not None and reference is not None:
            self._shadows.ask(reference.id, reference.version, request, scores)
        pair = _pair(request, scores) if self._keep_pairs else None
        name = request.unit or request.user_id
        token = decider.record(choice, self.keyring, self._now_ms(), pair, outcome, name)
        arm = choice.arm
        return Predicted(
            token,
            decider.id,
            decider.arm_names[arm],
            choice.propensity,
            decider.models[arm],
            decider.payloads[arm],
            reason=choice.reason,
            **scores,
        )

    async def score(self, model: str, version: str | None, request: ScoreRequest) -> Scored:
        """Predicts without an experiment, with a version or the one in production."""
        started = time.perf_counter()
        check_form(request)
        registry = self._replica.registry
        chosen = registry.version(model, version) if version is not None else registry.production(model)
        require_servable(chosen)
        check_of(chosen)(request)
        loaded = self._models.get(model, chosen.version) or await self._models.load(chosen)
        scoring = loaded.score(request, alone=True)
        scores = {"cached": False, **(scoring if isinstance(scoring, dict) else await scoring)}
        if self._shadows is not None and version is None:
            self._shadows.ask(model, chosen.version, request, scores)
        return Scored(
            user_id=UNSET if request.user_id is None else request.user_id,
            model_id=model,
            model_version=chosen.version,
            latency_ms=(time.perf_counter() - started) * 1000.0,
            item_id=UNSET if request.item_id is None else request.item_id,
            **scores,
        )


def _reasons(reasons: list[OutsideReason | None]) -> list[OutsideReason | None] | UnsetType:
    return reasons if any(reasons) else UNSET


def _is_of_the_request(error: Exception) -> bool:
    """Whether every arm would raise this error, so that the caller gets it."""
    return isinstance(error, InvalidInput) and not isinstance(error, ContentRefused)


def _unit_of(request: PredictRequest) -> str | None:
    return request.user_id if request.unit is None else request.unit


def _outcome(began_s: float, *, failed: bool) -> Outcome:
    return Outcome((time.perf_counter() - began_s) * 1000.0, failed)


def _refuse_to_predict(
    decider: Decider | ControlDecider, modelless: Sequence[str], request: ScoreRequest
) -> None:
    """Check of the arms that have no model, after those of the others: the request gets none of them."""
    assert isinstance(request, PredictRequest)
    arm = next((name for name in modelless if decider.may_get(name, request.eligible)), None)
    if arm is None:
        return
    if request.unit is not None:
        check_outside(request.unit, "unit")
    raise Conflict(f"The arm {arm!r} of {decider.id!r} has no model to predict with; use decide.")


def _pair(
    request: PredictRequest, scores: Mapping[str, Any]
) -> tuple[str, str, dict[str, Any] | None] | None:
    """User, item and features that a reward will refer to; None without a user, or if there are several items."""
    item = request.item_id
    if item is None and request.item_ids is not None and len(request.item_ids) == 1:
        item = request.item_ids[0]
    if item is None and len(scores.get("items", ())) == 1:
        item = scores["items"][0].item_id
    if item is None or request.user_id is None:
        return None
    features = request_features(request)
    return request.user_id, item, None if features is None else dict(features)
