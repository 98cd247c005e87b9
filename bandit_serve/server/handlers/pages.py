"""Pages: what the API answers, for people. Each is made of what the routes of the API read, and of nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web
from markupsafe import Markup

from bandit_serve.api.deployments import DeploymentView
from bandit_serve.api.experiment_stats import experiment_stats
from bandit_serve.api.views import (
    compare_versions,
    experiment_view,
    history_view,
    model_view,
)
from bandit_serve.dashboard.assets import CACHE_CONTROL, by_hashed_name
from bandit_serve.dashboard.experiment_figures import CopiedTable, FeatureEffects, figures_of
from bandit_serve.dashboard.experiment_page import SeenExperiment, copied_table, experiment_parts
from bandit_serve.dashboard.model_page import model_parts
from bandit_serve.dashboard.numbers import leaves
from bandit_serve.dashboard.overview import SORTS, STATUSES, Overview, WantedList
from bandit_serve.dashboard.service_page import service_parts
from bandit_serve.dashboard.surroundings import look_at_model
from bandit_serve.errors import (
    BanditServeError,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from bandit_serve.experiments.dimensions import dimension_fault
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.pictures.report_picture import alone, report_svg
from bandit_serve.pictures.shown import shown_of
from bandit_serve.pictures.theme import Theme
from bandit_serve.policies.contextual import ContextualPolicy
from bandit_serve.replication.current_tradeoff import current_tradeoff
from bandit_serve.replication.results_log import changes_of
from bandit_serve.results import ResultsFold, SegmentReport
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.glances import Glances
from bandit_serve.server.handlers.deployments import DeploymentHandlers
from bandit_serve.server.handlers.operations import OperationHandlers
from bandit_serve.server.listed import ListedExperiments
from bandit_serve.server.live_pages import Render, Seen
from bandit_serve.server.recent_figures import RecentFigures
from bandit_serve.server.service import Service
from bandit_serve.server.surroundings import SurroundingsReader
from bandit_serve.server.visitor import HEADERS, Visitor, page_response, visitor_of
from bandit_serve.server.wire import Pairs

T = TypeVar("T")

FIRST_LOOK_S, LOOK_S = 0.2, 0.05
"""Time for results of the overview in one look, while some have never been looked at, and after that."""
MAX_PAGE_NUMBER = 1_000
ENGINE_PATIENCE_S = 2.0
STREAM_CHECK_S = 1.0
NEWER_WITHIN_S = 5.0
KEPT_OPEN_EVERY = 15
"""Looks without news after which a stream says that it is there, as proxies close silent ones."""
EVENT_STREAM = {
    **HEADERS,
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",
}


class PageHandlers:
    def __init__(
        self,
        service: Service,
        authentication: Authentication,
        operations: OperationHandlers,
        deployments: DeploymentHandlers,
    ) -> None:
        self._service = service
        self._authentication = authentication
        self._operations = operations
        self._deployments = deployments
        self._glances = Glances(service)
        self._listed = ListedExperiments(service, self._glances)
        self._around = SurroundingsReader(service)
        self._overview = Overview()
        self._figures = RecentFigures()

    async def overview(self, request: web.Request) -> web.Response:
        wanted = _wanted(request)
        with contextlib.suppress(Unavailable):
            # All logs would take seconds where there are many; they are followed anyway.
            await self._service.node.tail.refresh_new()
        parts = await self._overview_parts(wanted)
        live = "/live" + (f"?{request.query_string}" if request.query_string else "")
        return self._page(request, "overview.html", "/", parts=parts, wanted=wanted, sorts=SORTS, live=live)

    async def overview_live(self, request: web.Request) -> web.StreamResponse:
        wanted = _wanted(request)

        def seen() -> Hashable:
            replica = self._service.node.replica
            due = self._glances.any_due(replica.experiments.values()) or self._around.is_old
            offsets = hash(tuple(live.offset for live in replica.experiments.values()))
            # What is due is looked at even if nothing else has moved.
            return offsets, len(replica.aside), object() if due else None, tuple(self._service.reasons)

        return await self._stream(request, ("overview", wanted), seen, lambda: self._overview_parts(wanted))

    async def _overview_parts(self, wanted: WantedList) -> dict[str, Markup]:
        service, replica = self._service, self._service.node.replica
        order = sorted(replica.experiments.values(), key=lambda live: live.record.status != "running")
        look_s = FIRST_LOOK_S if self._glances.any_unseen(order) else LOOK_S
        await self._glances.look(order, look_s)
        listed = await self._listed.all()
        around, reasons = await self._around.read(), service.reasons
        models = [look_at_model(model, around) for _, model in sorted(replica.registry.models.items())]
        return await asyncio.to_thread(self._overview.parts, listed, wanted, reasons, around, models)

    async def experiment(self, request: web.Request) -> web.Response:
        return await self.experiment_page(request, visitor_of(request, self._authentication))

    async def experiment_page(
        self,
        request: web.Request,
        visitor: Visitor,
        said: str = "",
        status: int = 200,
        preview: Mapping[str, float] | None = None,
        fields: Mapping[str, str] = {},
    ) -> web.Response:
        """Page of an experiment, with forms for those who may change it; `fields` are what they filled in.

        `preview`: shares that the policy of the form would lead to.
        """
        name, by = request.match_info["experiment"], request.query.get("by") or None
        parts = await self._experiment_parts(name, by)
        live = self._service.node.replica.experiment(name)
        declared = live.experiment.dimensions or ()
        followed = f"/experiments/{name}/live" + (f"?by={by}" if by else "")
        return page_response(
            "experiment.html",
            visitor,
            "",
            status,
            said=said,
            name=name,
            parts=parts,
            by=by,
            dimensions=sorted({*_can_split(live.experiment), *([by] if by else [])}),
            live=followed if by is None or by in declared else "",
            view=experiment_view(live.record),
            etag=live.etag,
            shares=self._shares(live),
            preview=preview,
            new_arm=NEW_ARM,
            form={"do": "", "reason": "", "policy": "", "arm": "", "winner": "", "to": "", **fields},
        )

    async def experiment_live(self, request: web.Request) -> web.StreamResponse:
        name, by = request.match_info["experiment"], request.query.get("by") or None
        live = await self._service.node.experiment_changes.known(name)
        if by is not None and by not in (live.experiment.dimensions or ()):
            raise InvalidInput(
                "by: expected a declared dimension.", [FieldError("by", "expected a declared dimension")]
            )
        return await self._stream(
            request,
            ("experiment", name, by),
            lambda: self._experiment_seen(name, by),
            lambda: self._experiment_parts(name, by),
        )

    def _experiment_seen(self, name: str, by: str | None) -> Hashable:
        """All that an experiment's page is made of, as far as it moves."""
        service = self._service
        live = service.node.replica.experiments.get(name)
        if live is None:
            return None
        decider = service.decisions.decider(name)
        due_ms = live.next_close_ms()
        closes = due_ms if due_ms is not None and due_ms <= service.node.store.clock.now_ms() else None
        reasons = tuple(service.reasons)
        due = self._figures.are_due((name, by), live.offset)
        return live.offset, decider.shares.tobytes(), tuple(decider.ejected), closes, reasons, due

    async def _experiment_parts(self, name: str, by: str | None) -> dict[str, Markup]:
        return await self._read_experiment(name, by, experiment_parts, recent=True)

    async def _read_experiment(
        self, name: str, by: str | None, read: Callable[[SeenExperiment], T], *, recent: bool = False
    ) -> T:
        """Returns `read` of all that is known of an experiment now; its figures may be `recent` ones."""
        service, figures = self._service, self._figures
        live = await service.node.experiment_changes.known(name)
        looked_up = await self._looked_up(live, by)
        shares, changes, reasons = self._shares(live), changes_of(live), service.reasons
        decider = service.decisions.decider(name)
        effects = _effects_of(live)
        stats = experiment_stats(live, decider.arm_names, decider.shares.tolist(), decider.ejected)
        as_of_ms = await service.node.store.time_ms()

        def of_fold(fold: ResultsFold) -> T:
            uid, offset = live.record.uid, fold.offset
            kept = figures.recent((name, by), uid, offset) if recent else None
            history = None if kept is None else kept.history
            shown = shown_of(fold, live.record, shares, changes, as_of_ms, looked_up, history)
            traded = msgspec.structs.replace(shown.report, tradeoff=current_tradeoff(live, shares))
            shown = shown._replace(report=traded)
            segments = next((each for each in shown.segments if each.field == by), None)
            if segments is not None:
                shown = shown._replace(report=msgspec.structs.replace(shown.report, segments=segments))
            drawn = figures_of(shown, effects) if kept is None else kept.figures
            if kept is None:
                figures.keep((name, by), uid, offset, shown.history, drawn)
            told = [history_view(entry) for entry in live.history]
            view = experiment_view(live.record)
            return read(SeenExperiment(shown, drawn, view, told, stats, reasons, by, live.etag))

        return await service.node.results.up_to_now(live, of_fold)

    async def _looked_up(self, live: LiveExperiment, by: str | None) -> SegmentReport | None:
        if by is None or by in (live.experiment.dimensions or ()):
            return None
        as_of_ms = await self._service.node.store.time_ms()
        report = await self._service.node.segmented_results.report(live, self._shares(live), as_of_ms, by)
        return report.segments if isinstance(report.segments, SegmentReport) else None

    def _shares(self, live: LiveExperiment) -> dict[str, float]:
        decider = self._service.decisions.decider(live.experiment.id)
        return dict(zip(decider.arm_names, decider.shares.tolist(), strict=True))

    async def picture(self, request: web.Request) -> web.Response:
        """Answers with the pictures of an experiment as one SVG, or with the figure `of` its page."""
        name, of, theme = request.match_info["experiment"], request.query.get("of"), _theme(request)

        def drawn(seen: SeenExperiment) -> str | None:
            if not of:
                return report_svg(seen.shown, theme)
            figure = seen.figures.named(of)
            return None if figure is None else alone(figure.svg, theme)

        svg = _found(await self._read_experiment(name, request.query.get("by") or None, drawn))
        headers = {**HEADERS, **_file(name, of, "svg"), "Content-Type": "image/svg+xml"}
        return web.Response(body=svg.encode(), headers=headers)

    async def table(self, request: web.Request) -> web.Response:
        """Answers with CSV: a table or figure `of` the page, or else the result, a line for each value by its path."""
        name, of = request.match_info["experiment"], request.query.get("of")

        def read(seen: SeenExperiment) -> CopiedTable | None:
            if of:
                return copied_table(seen, of)
            return CopiedTable(("name", "value"), list(leaves(msgspec.to_builtins(seen.shown.report))))

        table = _found(await self._read_experiment(name, request.query.get("by") or None, read))
        lines = [",".join(map(_cell, row)) for row in (table.head, *table.rows)]
        headers = {**HEADERS, **_file(name, of, "csv"), "Content-Type": "text/csv; charset=utf-8"}
        return web.Response(body=("\r\n".join(lines) + "\r\n").encode(), headers=headers)

    async def new(self, request: web.Request) -> web.Response:
        return self._page(request, "new.html", "", document=NEW, mistakes=[])

    async def models(self, request: web.Request) -> web.Response:
        registry, around = await self._service.node.model_changes.known(), await self._around.read()
        models = [look_at_model(model, around) for _, model in sorted(registry.models.items())]
        return self._page(request, "models.html", "/models", models=models, around=around)

    async def model(self, request: web.Request) -> web.Response:
        return await self.model_page(request, visitor_of(request, self._authentication))

    async def model_page(
        self, request: web.Request, visitor: Visitor, said: str = "", status: int = 200
    ) -> web.Response:
        registry = await self._service.node.model_changes.known()
        model = registry.model(request.match_info["model"])
        a, b = (request.query.get(side) or None for side in ("a", "b"))
        compared = None
        if a is not None and b is not None:
            compared = compare_versions(registry.version(model.name, a), registry.version(model.name, b))
        agreements = {}
        for version in model.versions.values():
            if version.status == "shadow":
                agreements[version.version] = await self._service.node.model_changes.agreement(
                    model.name, version.version
                )
        view, around = model_view(model), await self._around.read()
        look = look_at_model(model, around)
        parts = await asyncio.to_thread(model_parts, view, look, around.workers, compared, agreements)
        former = model.former[-1] if model.former else ""
        return page_response(
            "model.html",
            visitor,
            "/models",
            status,
            said=said,
            view=view,
            parts=parts,
            a=a,
            b=b,
            former=former,
        )

    async def service(self, request: web.Request) -> web.Response:
        visitor = visitor_of(request, self._authentication)
        deployments, why = await self._known_deployments() if visitor.may_change else ([], "")
        return page_response(
            "service.html",
            visitor,
            "/service",
            parts=await self._service_parts(),
            live="/service/live",
            deployments=deployments,
            no_deployments=why,
        )

    async def _known_deployments(self) -> tuple[list[DeploymentView], str]:
        """Deployments, or a sentence on why there are none to be seen."""
        try:
            async with asyncio.timeout(ENGINE_PATIENCE_S):
                return await self._deployments.known(), "Nothing is deployed."
        except TimeoutError:
            return [], "The container engine takes too long to answer."
        except BanditServeError as error:
            return [], str(error)

    async def service_live(self, request: web.Request) -> web.StreamResponse:
        # Counters move all the time.
        return await self._stream(request, "service", object, self._service_parts)

    async def _service_parts(self) -> dict[str, Markup]:
        known = await self._operations.known(refresh=False)
        known = {name: None if isinstance(each, Pairs) else each for name, each in known.items()}
        return service_parts(known, await self._around.read())

    async def login(self, request: web.Request) -> web.Response:
        return self._page(request, "login.html", "/login", to="/")

    async def asset(self, request: web.Request) -> web.Response:
        asset = by_hashed_name().get(request.match_info["asset"])
        if asset is None:
            raise NotFound("There is no such file; load the page again.")
        headers: dict[str, str] = {
            hdrs.CONTENT_TYPE: asset.media,
            hdrs.CACHE_CONTROL: CACHE_CONTROL,
            hdrs.VARY: hdrs.ACCEPT_ENCODING,
            "X-Content-Type-Options": "nosniff",
        }
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            return web.Response(body=asset.compressed, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})
        return web.Response(body=asset.content, headers=headers)

    def _page(self, request: web.Request, template: str, here: str, **content: Any) -> web.Response:
        return page_response(template, visitor_of(request, self._authentication), here, **content)

    async def _stream(
        self, request: web.Request, key: Hashable, seen: Seen, render: Render
    ) -> web.StreamResponse:
        """Sends what changes on a page, until its viewer leaves or may look no more, or this worker drains."""
        response = web.StreamResponse(headers=EVENT_STREAM)
        with (
            self._service.live_pages.following(key, seen, render) as followed,
            contextlib.suppress(ConnectionError),
        ):
            await response.prepare(request)
            if request.method == hdrs.METH_HEAD:
                return response
            await followed.newer(NEWER_WITHIN_S)
            known, quiet = 0, 0
            # Nothing else tells of a viewer who has left before there is something to send.
            while not self._service.draining and request.transport is not None:
                try:
                    self._authentication.caller("read", request.headers, request.method)
                except (Unauthenticated, Forbidden) as error:
                    await response.write(b"data: %b\n\n" % msgspec.json.encode({"failure": str(error)}))
                    break
                if followed.number != known:
                    event, known, quiet = followed.event(known), followed.number, 0
                    await response.write(event)
                elif quiet >= KEPT_OPEN_EVERY:
                    await response.write(b":\n\n")
                    quiet = 0
                await followed.after(known, STREAM_CHECK_S)
                quiet += 1
        return response


NEW = """{
  "id": "my-experiment",
  "arms": [{"name": "control"}, {"name": "challenger"}],
  "unit": "request",
  "policy": {"kind": "thompson", "min_share": 0.05},
  "metrics": [{"name": "click", "kind": "binary", "goal": "maximize"}],
  "attribution": {"window": "1h", "missing": "zero"}
}"""


NEW_ARM = """{
  "name": "another",
  "ramp": {"from": 0.01, "over": "2h"}
}"""


def _wanted(request: web.Request) -> WantedList:
    query = request.query
    sort, status, number = query.get("sort") or SORTS[0], query.get("status") or "", query.get("page") or "1"
    for name, value, known in (("sort", sort, SORTS), ("status", status, ("", *STATUSES))):
        if value not in known:
            detail = f"expected one of {', '.join(filter(None, known))}"
            raise InvalidInput(f"{name}: {detail}.", [FieldError(name, detail)])
    if not (number.isascii() and number.isdecimal() and 1 <= int(number[:5]) <= MAX_PAGE_NUMBER):
        detail = f"expected a whole number from 1 to {MAX_PAGE_NUMBER}"
        raise InvalidInput(f"page: {detail}.", [FieldError("page", detail)])
    return WantedList(query.get("q", "")[:200], status, sort, int(number[:5]))


def _can_split(experiment: Experiment) -> list[str]:
    """Context fields by which results can be split."""
    return [
        field.name
        for field in experiment.context or ()
        if dimension_fault(experiment.context or (), field.name) is None
    ]


def _effects_of(live: LiveExperiment) -> FeatureEffects | None:
    """Effects of the features of a contextual policy; None without one, or before they are known."""
    if live.features is None or not isinstance(live.policy, ContextualPolicy):
        return None
    effects = live.policy.effects()
    return None if effects is None else FeatureEffects(live.features.names, effects, live.policy.logit)


def _theme(request: web.Request) -> Theme:
    match request.query.get("theme") or "light":
        case "light":
            return "light"
        case "dark":
            return "dark"
    detail = "expected light or dark"
    raise InvalidInput(f"theme: {detail}.", [FieldError("theme", detail)])


def _found(content: T | None) -> T:
    if content is None:
        raise NotFound("The page of this experiment has no such figure or table now.")
    return content


def _file(name: str, of: str | None, end: str) -> dict[str, str]:
    """Header that names the file; the names of figures that there are have no other characters than names have."""
    return {hdrs.CONTENT_DISPOSITION: f'attachment; filename="{"-".join(filter(None, [name, of]))}.{end}"'}


def _cell(value: object) -> str:
    """Cell of CSV. What a spreadsheet would take for a formula is text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    text = f"'{value}" if value[:1] in "=+-@\t\r" else value
    return '"' + text.replace('"', '""') + '"'
