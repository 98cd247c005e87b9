"""Page of the simulator. What a reader asks for is bounded first, and done in another process."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET

from bandit_serve.dashboard.simulator_page import AXES, BEGINNING, document_text, simulator_parts
from bandit_serve.errors import BanditServeError, FieldError, InvalidInput
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.pictures.scale import AxisKind
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.problems import problem
from bandit_serve.server.service import Service
from bandit_serve.server.visitor import page_response, visitor_of
from bandit_serve.simulation.cost import MAX_ARMS, bounded

MAX_CHARS = 4_000
MAX_LIKES = 200
WORLDS = {"binary": "bernoulli", "count": "poisson", "continuous": "gaussian", "bounded": "gaussian"}
"""Environment whose rewards are like those of a kind of metric."""


class SimulatorHandlers:
    def __init__(self, service: Service, authentication: Authentication) -> None:
        self._service = service
        self._authentication = authentication

    async def page(self, request: web.Request) -> web.Response:
        """Answers with a form, and with the result of the simulation that the query describes."""
        query = request.query
        like, axis = query.get("like") or "", _axis(query.get("axis") or AXES[0])
        text = query.get("world") or document_text(await self._beginning(like))
        content: dict[str, Any] = {"result": None, "mistakes": [], "said": ""}
        status = 200
        if query.get("world") and request.method != hdrs.METH_HEAD:
            try:
                document = _read(text)
                bounded(document)
                report = await self._service.simulations.run(msgspec.json.encode(document))
                content["result"] = simulator_parts(report, axis)
            except BanditServeError as error:
                refusal = problem(error)
                status = refusal.status
                mistakes = [] if refusal.errors is UNSET else refusal.errors
                content |= {"said": refusal.detail, "mistakes": mistakes}
        return page_response(
            "simulator.html",
            visitor_of(request, self._authentication),
            "/simulator",
            status,
            document=text,
            like=like,
            likes=self._likes(),
            axis=axis,
            axes=AXES,
            max_chars=MAX_CHARS,
            **content,
        )

    def _likes(self) -> list[str]:
        """Experiments whose means are known, for a form."""
        experiments = self._service.node.replica.experiments
        return [name for name in sorted(experiments) if _means(experiments[name])][:MAX_LIKES]

    async def _beginning(self, like: str) -> dict[str, Any]:
        """Description to begin with: that of an experiment's arms as they are known now, if one is named."""
        if not like:
            return BEGINNING
        live = await self._service.node.experiment_changes.known(like)
        means = _means(live)
        if not means:
            detail = (
                "expected an experiment whose arms have means by now, at most as many as can be simulated"
            )
            raise InvalidInput(f"like: {detail}.", [FieldError("like", detail)])
        kind = WORLDS[live.experiment.objective.kind]
        policies = dict.fromkeys([live.experiment.policy.kind, *BEGINNING["policies"]])
        return {**BEGINNING, "environment": {"kind": kind, "arms": means}, "policies": list(policies)}


def _means(live: LiveExperiment) -> list[float]:
    """Means of the arms to three digits; empty where there is no world like that."""
    experiment = live.experiment
    if experiment.objective.kind not in WORLDS or experiment.context or len(experiment.arms) > MAX_ARMS:
        return []
    means = live.means().tolist()
    return [] if any(math.isnan(mean) for mean in means) else [float(f"{mean:.3g}") for mean in means]


def _axis(text: str) -> AxisKind:
    for axis in AXES:
        if text == axis:
            return axis
    detail = f"expected one of {', '.join(AXES)}"
    raise InvalidInput(f"axis: {detail}.", [FieldError("axis", detail)])


def _read(text: str) -> dict[str, Any]:
    if len(text) > MAX_CHARS:
        raise InvalidInput(f"The simulation is described in at most {MAX_CHARS:,} characters here.")
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise InvalidInput("The simulation must be described by an object in JSON.") from None
