"""Application: the table of routes, their handlers, and the middleware that they share."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from bandit_serve.api.decisions import (
    DecideBatch,
    Decided,
    DecidedColumns,
    DecideRequest,
    PredictBatch,
    Predicted,
    PredictRequest,
    Scored,
    ScoreRequest,
)
from bandit_serve.api.definitions import DefinitionList, DefinitionUses, DefinitionView
from bandit_serve.api.flags import EvaluationRequest, Flag, FlagList
from bandit_serve.api.inference import (
    IndexEntry,
    IndexRequest,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from bandit_serve.api.rewards import ExposuresRequest, RewardsReport, RewardsRequest
from bandit_serve.api.views import (
    ExperimentList,
    ExperimentView,
    History,
    LoadedBy,
    ModelList,
    ModelView,
    VersionComparison,
    VersionPage,
    VersionView,
)
from bandit_serve.base.mistakes import MAX_MISTAKES, expected_one_of
from bandit_serve.base.names import Name
from bandit_serve.base.request_tags import tagged
from bandit_serve.errors import FieldError, InvalidInput, NotBegun, StateFault, TooLarge
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.registry.agreement import AgreementReport
from bandit_serve.registry.registry import VersionStatus
from bandit_serve.results import Report, ResultsHistory, Timeline
from bandit_serve.results.history import MAX_POINTS
from bandit_serve.results.over_time import TIMELINE_POINTS
from bandit_serve.results.plan_request import PlanRequest
from bandit_serve.results.planning import ExperimentPlan
from bandit_serve.server.admission import Admission
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.connection import Connection
from bandit_serve.server.cors import CrossOrigin
from bandit_serve.server.dialects import error_response
from bandit_serve.server.handlers.covariates import (
    READERS,
    CovariateHandlers,
    CovariatesRequest,
    CovariatesView,
)
from bandit_serve.server.handlers.decisions import DecisionHandlers
from bandit_serve.server.handlers.definitions import DefinitionHandlers
from bandit_serve.server.handlers.experiments import (
    ArmRequest,
    ExperimentHandlers,
    LayerRequest,
    MetricRequest,
    Points,
    ReasonRequest,
    StopRequest,
)
from bandit_serve.server.handlers.flags import FlagHandlers
from bandit_serve.server.handlers.inference import InferenceHandlers
from bandit_serve.server.handlers.models import (
    Condition,
    Family,
    Loaded,
    ModelHandlers,
    PatchRequest,
    RollbackRequest,
    StatusRequest,
    Upload,
    VersionMetadata,
)
from bandit_serve.server.handlers.operations import Health, OperationHandlers, Stats
from bandit_serve.server.handlers.plans import PlanHandlers
from bandit_serve.server.handlers.rewards import RewardHandlers
from bandit_serve.server.lane import Endpoint, Lane
from bandit_serve.server.openapi import document
from bandit_serve.server.page import PAGE, Limit
from bandit_serve.server.route import EITHER, MULTIPART, BatchAnswer, Query, Route
from bandit_serve.server.service import Service
from bandit_serve.server.tensors import BINARY
from bandit_serve.server.wire import CALLER, JSON, MAX_BODY, TAGS, Reply, read_bytes, tags_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNMATCHED = "unmatched"
# A reason has a thousand characters, of which each may be written as six.
REASON_BYTES = 16 * 1024
# 1,000 arms by name, and a context.
DECIDE_BYTES = 256 * 1024
# 10,000 items of 256 bytes, of which many may be written as escapes.
SCORE_BYTES = 4 * 2**20
POLICY_BYTES = 2**20
# A payload of 64 KiB, however it is laid out, and features.
ARM_BYTES = 256 * 1024
PATCH_BYTES = 256 * 1024
# A description of 4,000 characters, of which each may be written as twelve.
DEFINITION_BYTES = 64 * 1024
# After these the rest of the body may still come, or never: no other request can follow it.
BODY_ABANDONED = frozenset({408, 413})

# The hot ones first: aiohttp tries the routes of a prefix in their order.
ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/rewards",
        "rewards.reward",
        "Counts one reward, or many; each once.",
        "serve",
        RewardsRequest,
        RewardsReport,
        media=EITHER,
        refuses=(404, 409, 410),
        hot=True,
        operation="reward",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/decide",
        "decisions.decide",
        "Draws an arm.",
        "serve",
        DecideRequest,
        Decided,
        media=EITHER,
        optional=True,
        refuses=(409,),
        hot=True,
        max_body=DECIDE_BYTES,
        operation="decide",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/predict",
        "decisions.predict",
        "Draws an arm and predicts with its model.",
        "serve",
        PredictRequest,
        Predicted,
        media=EITHER,
        refuses=(409, 501),
        hot=True,
        max_body=SCORE_BYTES,
        operation="predict",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/decide/batch",
        "decisions.decide_batch",
        "Draws an arm for each entry.",
        "serve",
        DecideBatch,
        (BatchAnswer(Decided), DecidedColumns),
        media=EITHER,
        refuses=(409,),
        hot=True,
        operation="decideBatch",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/predict/batch",
        "decisions.predict_batch",
        "Draws an arm for each entry and predicts with its model.",
        "serve",
        PredictBatch,
        BatchAnswer(Predicted),
        media=EITHER,
        refuses=(409,),
        hot=True,
        operation="predictBatch",
    ),
    Route(
        "POST",
        "/v1/models/{model}/predict",
        "decisions.score",
        "Predicts with the production version.",
        "serve",
        ScoreRequest,
        Scored,
        media=EITHER,
        refuses=(409, 501),
        max_body=SCORE_BYTES,
        operation="predictWithModel",
    ),
    Route(
        "POST",
        "/v1/models/{model}/versions/{version}/predict",
        "decisions.score",
        "Predicts with one version.",
        "serve",
        ScoreRequest,
        Scored,
        media=EITHER,
        refuses=(409, 501),
        max_body=SCORE_BYTES,
        operation="predictWithVersion",
    ),
    Route(
        "POST",
        "/v1/exposures",
        "rewards.expose",
        "Logs decisions of a bulk evaluation as exposures; each once.",
        "serve",
        ExposuresRequest,
        RewardsReport,
        media=EITHER,
        operation="expose",
    ),
    Route(
        "POST",
        "/ofrep/v1/evaluate/flags/{experiment}",
        "flags.evaluate",
        "Draws an arm, as a flag (OFREP).",
        "serve",
        EvaluationRequest,
        Flag,
        max_body=DECIDE_BYTES,
        operation="evaluateFlag",
    ),
    Route(
        "POST",
        "/ofrep/v1/evaluate/flags",
        "flags.evaluate_all",
        "Draws an arm of every experiment, as flags (OFREP); logs nothing.",
        "serve",
        EvaluationRequest,
        FlagList,
        max_body=DECIDE_BYTES,
        conditional=True,
        operation="evaluateFlags",
    ),
    Route(
        "POST",
        "/v2/models/{model}/infer",
        "inference.infer",
        "Predicts with the production version, or draws an arm of an experiment for each row.",
        "serve",
        InferenceRequest,
        InferenceResponse,
        media=(JSON, BINARY),
        refuses=(409, 501),
        operation="infer",
    ),
    Route(
        "POST",
        "/v2/models/{model}/versions/{version}/infer",
        "inference.infer",
        "Predicts with one version.",
        "serve",
        InferenceRequest,
        InferenceResponse,
        media=(JSON, BINARY),
        refuses=(409, 501),
        operation="inferWithVersion",
    ),
    Route(
        "GET",
        "/v2/models/{model}",
        "inference.model",
        "The tensors of a model or an experiment.",
        "any",
        answers=ModelMetadata,
        refuses=(409,),
        operation="getModelMetadata",
    ),
    Route(
        "GET",
        "/v2/models/{model}/versions/{version}",
        "inference.model",
        "The tensors of a version.",
        "any",
        answers=ModelMetadata,
        refuses=(409,),
        operation="getVersionMetadata",
    ),
    Route(
        "GET",
        "/v2/models/{model}/ready",
        "inference.model_ready",
        "Whether a model or an experiment can be asked.",
        "any",
        answers=ModelReady,
        refuses=(409,),
        operation="checkModelReady",
    ),
    Route(
        "GET",
        "/v2/models/{model}/versions/{version}/ready",
        "inference.model_ready",
        "Whether a version can be asked.",
        "any",
        answers=ModelReady,
        refuses=(409,),
        operation="checkVersionReady",
    ),
    Route(
        "POST",
        "/v2/repository/index",
        "inference.index",
        "Models, their versions, and experiments.",
        "any",
        IndexRequest,
        list[IndexEntry],
        optional=True,
        max_body=REASON_BYTES,
        operation="indexRepository",
    ),
    Route(
        "GET",
        "/v2",
        "inference.about",
        "The server, and the extensions of the protocol that it has.",
        "any",
        answers=ServerMetadata,
        operation="getServerMetadata",
    ),
    Route(
        "GET",
        "/v2/health/live",
        "inference.live",
        "Whether this worker runs.",
        "any",
        answers=ServerLive,
        open=True,
        operation="checkServerLive",
    ),
    Route(
        "GET",
        "/v2/health/ready",
        "inference.ready",
        "Whether this worker can serve.",
        "any",
        answers=ServerReady,
        refuses=(503,),
        open=True,
        operation="checkServerReady",
    ),
    Route(
        "GET",
        "/health/live",
        "operations.live",
        "Whether this worker runs.",
        "nothing",
        answers=Health,
        open=True,
        operation="checkLive",
    ),
    Route(
        "GET",
        "/health/ready",
        "operations.ready",
        "Whether this worker can serve.",
        "nothing",
        answers=Health,
        refuses=(503,),
        open=True,
        operation="checkReady",
    ),
    Route(
        "GET",
        "/metrics",
        "operations.metrics",
        "Counters for Prometheus.",
        "read",
        answers=str,
        operation="getMetrics",
    ),
    Route(
        "GET",
        "/v1/stats",
        "operations.stats",
        "The service in one page.",
        "read",
        answers=Stats,
        refuses=(413,),
        operation="getStats",
    ),
    Route(
        "POST",
        "/v1/plan",
        "plans.plan",
        "Plans an experiment: observations, days and power.",
        "admin",
        PlanRequest,
        ExperimentPlan,
        refuses=(404, 409),
        max_body=REASON_BYTES,
        operation="plan",
    ),
    Route(
        "POST",
        "/v1/experiments",
        "experiments.create",
        "Makes an experiment, as a draft.",
        "admin",
        Experiment,
        ExperimentView,
        status=201,
        refuses=(409, 501),
        etag=True,
        operation="createExperiment",
    ),
    Route(
        "GET",
        "/v1/experiments",
        "experiments.list_all",
        "All experiments, or a page of them.",
        "read",
        answers=ExperimentList,
        query=PAGE,
        refuses=(413,),
        operation="listExperiments",
    ),
    Route(
        "GET",
        "/v1/experiments/{experiment}",
        "experiments.show",
        "One experiment, and where it stands.",
        "read",
        answers=ExperimentView,
        etag=True,
        operation="getExperiment",
    ),
    Route(
        "PUT",
        "/v1/experiments/{experiment}",
        "experiments.put",
        "Makes a draft another one, of the same name.",
        "admin",
        Experiment,
        ExperimentView,
        refuses=(409, 412, 501),
        operation="replaceExperiment",
    ),
    Route(
        "PUT",
        "/v1/experiments/{experiment}/covariates",
        "covariates.put",
        "Uploads covariates by unit for a draft, in place of those that it had.",
        "admin",
        CovariatesRequest,
        CovariatesView,
        files=tuple(READERS),
        refuses=(409, 501),
        operation="putCovariates",
    ),
    Route(
        "DELETE",
        "/v1/experiments/{experiment}",
        "experiments.delete",
        "Deletes a draft, or an experiment that is stopped, for good.",
        "admin",
        ReasonRequest,
        optional=True,
        status=204,
        refuses=(404, 409, 412),
        max_body=REASON_BYTES,
        operation="deleteExperiment",
    ),
    Route(
        "PUT",
        "/v1/experiments/{experiment}/policy",
        "experiments.change_policy",
        "Changes the policy; what was learned stays.",
        "admin",
        PolicySpec,
        ExperimentView,
        refuses=(409, 412, 501),
        max_body=POLICY_BYTES,
        operation="changePolicy",
    ),
    Route(
        "PUT",
        "/v1/experiments/{experiment}/layer",
        "experiments.change_layer",
        "Gives an experiment another share of its layer; no unit of another experiment is moved.",
        "admin",
        LayerRequest,
        ExperimentView,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="changeLayer",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/arms",
        "experiments.add_arm",
        "Adds an arm, with a ramp or at once.",
        "admin",
        ArmRequest,
        ExperimentView,
        refuses=(409, 412, 501),
        max_body=ARM_BYTES,
        operation="addArm",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/metrics",
        "experiments.add_metric",
        "Adds a metric; decisions from then on are analysed on it.",
        "admin",
        MetricRequest,
        ExperimentView,
        refuses=(409, 412, 501),
        max_body=POLICY_BYTES,
        operation="addMetric",
    ),
    Route(
        "DELETE",
        "/v1/experiments/{experiment}/arms/{arm}",
        "experiments.remove_arm",
        "Removes an arm for good; rewards of its decisions still count.",
        "admin",
        ReasonRequest,
        ExperimentView,
        optional=True,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="removeArm",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/arms/{arm}/pause",
        "experiments.pause_arm",
        "Gives an arm no traffic until it is resumed.",
        "admin",
        ReasonRequest,
        ExperimentView,
        optional=True,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="pauseArm",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/arms/{arm}/resume",
        "experiments.resume_arm",
        "Gives a paused arm its traffic again.",
        "admin",
        ReasonRequest,
        ExperimentView,
        optional=True,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="resumeArm",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/start",
        "experiments.start",
        "Starts a draft, or goes on after a pause.",
        "admin",
        ReasonRequest,
        ExperimentView,
        optional=True,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="startExperiment",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/pause",
        "experiments.pause",
        "Gives control to everyone until it is started again.",
        "admin",
        ReasonRequest,
        ExperimentView,
        optional=True,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="pauseExperiment",
    ),
    Route(
        "POST",
        "/v1/experiments/{experiment}/stop",
        "experiments.stop",
        "Ends it; the version of a winner is promoted.",
        "admin",
        StopRequest,
        ExperimentView,
        optional=True,
        refuses=(409, 412),
        max_body=REASON_BYTES,
        operation="stopExperiment",
    ),
    Route(
        "GET",
        "/v1/experiments/{experiment}/results",
        "experiments.results",
        "What is known so far; with `by` within the values of a context field, too.",
        "read",
        answers=Report,
        query=(Query("by", "A categorical context field, of `dimensions` or to be looked up."),),
        refuses=(409,),
        operation="getResults",
    ),
    Route(
        "GET",
        "/v1/experiments/{experiment}/results/history",
        "experiments.results_history",
        "What was known at past times.",
        "read",
        answers=ResultsHistory,
        query=(Query("points", f"The most times (default: {MAX_POINTS}).", Points),),
        refuses=(413,),
        operation="getResultsHistory",
    ),
    Route(
        "GET",
        "/v1/experiments/{experiment}/timeline",
        "experiments.timeline",
        "Shares and the objective over time, and who changed what.",
        "read",
        answers=Timeline,
        query=(Query("points", f"The most times (default: {TIMELINE_POINTS}).", Points),),
        refuses=(413,),
        operation="getTimeline",
    ),
    Route(
        "GET",
        "/v1/experiments/{experiment}/history",
        "experiments.history",
        "Who changed what, and when.",
        "read",
        answers=History,
        refuses=(413,),
        operation="getHistory",
    ),
    Route(
        "GET",
        "/v1/metrics",
        "definitions.list_all",
        "The catalogue of metrics, or a page of it.",
        "read",
        answers=DefinitionList,
        query=PAGE,
        refuses=(413,),
        operation="listDefinitions",
    ),
    Route(
        "GET",
        "/v1/metrics/{metric}",
        "definitions.show",
        "What a metric is, and which experiments have one of its name.",
        "read",
        answers=DefinitionUses,
        etag=True,
        operation="getDefinition",
    ),
    Route(
        "PUT",
        "/v1/metrics/{metric}",
        "definitions.define",
        "Defines a metric in the catalogue; experiments that have it stay as they are.",
        "admin",
        MetricDefinition,
        DefinitionView,
        refuses=(409, 412),
        makes=True,
        max_body=DEFINITION_BYTES,
        operation="defineMetric",
    ),
    Route(
        "DELETE",
        "/v1/metrics/{metric}",
        "definitions.remove",
        "Takes a metric out of the catalogue; experiments that have it stay as they are.",
        "admin",
        status=204,
        refuses=(404, 409, 412),
        operation="removeDefinition",
    ),
    Route(
        "GET",
        "/v1/models",
        "models.list_all",
        "All models, or a page of them.",
        "read",
        answers=ModelList,
        query=PAGE,
        refuses=(413,),
        operation="listModels",
    ),
    Route(
        "GET",
        "/v1/models/{model}",
        "models.show",
        "One model, its versions and its history.",
        "read",
        answers=ModelView,
        refuses=(413,),
        operation="getModel",
    ),
    Route(
        "POST",
        "/v1/models/{model}/rollback",
        "models.rollback",
        "Puts the former production version back.",
        "admin",
        RollbackRequest,
        ModelView,
        optional=True,
        refuses=(409,),
        max_body=REASON_BYTES,
        operation="rollbackModel",
    ),
    Route(
        "GET",
        "/v1/models/{model}/versions",
        "models.find",
        "Versions by status, family, metric, text; sorted, page by page.",
        "read",
        answers=VersionPage,
        refuses=(413,),
        query=(
            Query("status", "A status that it may have.", VersionStatus, many=True),
            Query("family", "The family of its model.", Family),
            Query("metric", "A condition that it meets, such as `rmse<=0.9`.", Condition, many=True),
            Query("text", "Text that is in its name or metadata."),
            Query("sort", "What to sort by, with `-` before it downward (default: `-created`)."),
            Query("limit", "The most versions on a page (default: 100).", Limit),
            Query("after", "Where the page before ended."),
        ),
        operation="findVersions",
    ),
    Route(
        "GET",
        "/v1/models/{model}/compare",
        "models.compare",
        "Two versions, a and b, beside each other.",
        "read",
        answers=VersionComparison,
        refuses=(400,),
        query=(Query("a", "A version.", Name, required=True), Query("b", "Another.", Name, required=True)),
        operation="compareVersions",
    ),
    Route(
        "GET",
        "/v1/models/{model}/versions/{version}/agreement",
        "models.agreement",
        "How a shadow version agrees with what was answered.",
        "read",
        answers=AgreementReport,
        operation="getAgreement",
    ),
    Route(
        "POST",
        "/v1/models/{model}/versions",
        "models.register",
        "Registers an artifact, or an upstream, as a version.",
        "admin",
        Upload,
        VersionView,
        media=MULTIPART,
        plain=VersionMetadata,
        status=201,
        refuses=(409,),
        operation="registerVersion",
    ),
    Route(
        "GET",
        "/v1/models/{model}/versions/{version}",
        "models.show_version",
        "One version.",
        "read",
        answers=VersionView,
        operation="getVersion",
    ),
    Route(
        "PATCH",
        "/v1/models/{model}/versions/{version}",
        "models.patch",
        "Adds metrics and metadata to a version.",
        "admin",
        PatchRequest,
        VersionView,
        max_body=PATCH_BYTES,
        operation="describeVersion",
    ),
    Route(
        "POST",
        "/v1/models/{model}/versions/{version}/status",
        "models.set_status",
        "Moves a version to another status.",
        "admin",
        StatusRequest,
        VersionView,
        refuses=(409,),
        max_body=REASON_BYTES,
        operation="setVersionStatus",
    ),
    Route(
        "GET",
        "/v1/models/{model}/versions/{version}/load",
        "models.loaded_by",
        "Which workers have a version in memory.",
        "read",
        answers=LoadedBy,
        operation="getLoadedBy",
    ),
    Route(
        "POST",
        "/v1/models/{model}/versions/{version}/load",
        "models.load",
        "Loads a version into this worker's memory.",
        "admin",
        answers=Loaded,
        refuses=(400, 409),
        operation="loadVersion",
    ),
    Route(
        "GET",
        "/openapi.json",
        "operations.openapi",
        "This description.",
        "read",
        answers=dict,
        operation="getOpenapi",
    ),
    Route(
        "GET",
        "/",
        "operations.not_built",
        "The dashboard.",
        "read",
        refuses=(501,),
        operation="getDashboard",
    ),
)
OPEN_PATHS = frozenset(route.path for route in ROUTES if route.open)
ROUTE_LABELS: tuple[str, ...] = (*(route.label for route in ROUTES), UNMATCHED)


def make_app(
    service: Service, admission: Admission, authentication: Authentication
) -> tuple[web.Application, Lane]:
    """Makes the application, and the lane for its hot routes."""
    groups = {
        "decisions": DecisionHandlers(service),
        "rewards": RewardHandlers(service),
        "flags": FlagHandlers(service),
        "inference": InferenceHandlers(service),
        "experiments": ExperimentHandlers(service),
        "definitions": DefinitionHandlers(service),
        "covariates": CovariateHandlers(service),
        "models": ModelHandlers(service),
        "plans": PlanHandlers(service),
        "operations": OperationHandlers(service, document(ROUTES)),
    }
    routes: dict[web.AbstractRoute, Route] = {}
    lane = Lane(service, admission, authentication)
    service.node.replica.on_deleted(lane.forget)
    app = web.Application(
        middlewares=[_shared(service, admission, authentication, routes)],
        client_max_size=service.settings.max_body,
    )
    for route in ROUTES:
        group, name = route.handler.split(".")
        endpoint = getattr(groups[group], name)
        if route.hot:
            max_body = min(route.max_body or service.settings.max_body, service.settings.max_body)
            lane.add(route, endpoint, max_body)
            endpoint = _ordinary(endpoint, service.settings.seconds("body_timeout"))
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        for method in methods:
            routes[app.router.add_route(method, route.path, endpoint)] = route
    return app, lane


def _ordinary(endpoint: Endpoint, timeout_s: float) -> Handler:
    """Wraps a hot endpoint as an ordinary handler, for requests that the lane leaves to the application."""

    async def handle(request: web.Request) -> web.Response:
        body = await read_bytes(request, timeout_s)
        reply = endpoint(request.match_info.get("experiment", ""), request.headers, body)
        if not isinstance(reply, Reply):
            reply = await reply
        return web.Response(body=reply.body, headers={"Content-Type": reply.content_type})

    return handle


def _shared(
    service: Service,
    admission: Admission,
    authentication: Authentication,
    routes: dict[web.AbstractRoute, Route],
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Middleware of all routes: errors become problems, requests are counted, a draining worker closes connections."""
    counters, cross_origin = service.counters, CrossOrigin(service.settings)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        tags = tags_of(request.headers)
        if tags is None:
            return await answer_untagged(request, handler)
        request[TAGS] = tags
        with tagged(tags):
            response = await answer_untagged(request, handler)
        response.headers.update(tags.headers())
        return response

    async def answer_untagged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        route = routes.get(request.match_info.route)
        response: web.StreamResponse
        try:
            admission.check(request.method, request.headers)
            preflight = cross_origin.preflight(request)
            if preflight is None and request.path not in OPEN_PATHS:
                if _is_crowded(request):
                    raise NotBegun("This worker has as many connections as it can have.")
                if not service.ready:
                    raise NotBegun("The first state is not loaded yet.")
            if preflight is None and service.ready:
                key = authentication.caller("any" if route is None else route.needs, request.headers)
                if key is not None:
                    request[CALLER] = key.name
            if route is not None:
                if request.query_string:
                    _check_query(route, request)
                if route.max_body is not None:
                    request[MAX_BODY] = route.max_body
            response = preflight or await _answered(route, handler, request)
        except Exception as error:
            response = error_response(request, error)
        cross_origin.mark(request, response)
        if (
            service.draining
            or _is_crowded(request)
            or response.status in BODY_ABANDONED
            or request.content.exception() is not None
        ):
            response.force_close()
        counters.request(
            UNMATCHED if route is None else route.label, response.status, time.perf_counter() - started
        )
        return response

    return answer


async def _answered(route: Route | None, handler: Handler, request: web.Request) -> web.StreamResponse:
    """A route that takes nothing from its caller cannot have been given anything invalid: then the fault is ours.

    What we have to say may still be too much for one answer.
    """
    if route is None or route.takes is not None or route.query:
        return await handler(request)
    try:
        return await handler(request)
    except TooLarge:
        raise
    except InvalidInput as error:
        raise StateFault("What we know can not be read; the service's log says why.") from error


def _check_query(route: Route, request: web.Request) -> None:
    known = [parameter.name for parameter in route.query]
    unknown = list(dict.fromkeys(name for name in request.query if name not in known))[:MAX_MISTAKES]
    if unknown:
        errors = [
            FieldError(
                name[:60], expected_one_of(name, known) if known else "expected no parameters in the query"
            )
            for name in unknown
        ]
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)


def _is_crowded(request: web.Request) -> bool:
    return isinstance(request.protocol, Connection) and request.protocol.crowded
