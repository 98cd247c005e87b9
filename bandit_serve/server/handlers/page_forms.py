"""Forms of pages: each does what a route of the API does, with the key of a session and the token of its pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.changes.experiment_mistakes import mistakes_of_policy
from bandit_serve.errors import (
    BanditServeError,
    FieldError,
    InvalidInput,
    Unauthenticated,
    UnsupportedMedia,
)
from bandit_serve.experiments.named_metric import filled_experiment
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.forwarded import FORWARDED, NOTHING, scheme_of
from bandit_serve.server.handlers.experiments import ArmRequest, StopRequest
from bandit_serve.server.handlers.models import StatusRequest
from bandit_serve.server.handlers.pages import PageHandlers
from bandit_serve.server.problems import problem
from bandit_serve.server.route import FORM
from bandit_serve.server.service import Service
from bandit_serve.server.sessions import COOKIE, LIFE_MS
from bandit_serve.server.visitor import page_response, visitor_of
from bandit_serve.server.wire import CALLER, JSON_FORM, Body, actor, read_bytes
from bandit_serve.server.wire_form import essence

T = TypeVar("T")
MAX_FIELDS = 32


class Fields(dict[str, str]):
    """Fields of a form, each once. One that was not sent is empty."""

    def __missing__(self, name: str) -> str:
        return ""


class FormHandlers:
    def __init__(self, service: Service, authentication: Authentication, pages: PageHandlers) -> None:
        self._timeout_s = timeout_s = service.settings.seconds("body_timeout")
        self._authentication = authentication
        self._pages = pages
        self._changes = service.node.experiment_changes
        self._model_changes = service.node.model_changes
        self._definitions = service.node.definition_changes.definitions
        self._experiment = Body(Experiment, timeout_s=timeout_s)
        self._policy = Body(PolicySpec, timeout_s=timeout_s)
        self._arm = Body(ArmRequest, timeout_s=timeout_s)
        self._stop = Body(StopRequest, timeout_s=timeout_s)
        self._status = Body(StatusRequest, timeout_s=timeout_s)

    async def sign_in(self, request: web.Request) -> web.Response:
        """Answers a right key with a session and the way to the page; says what is wrong with another one."""
        fields = await self._fields(request)
        to = fields["to"] if _is_of_ours(fields["to"]) else "/"
        try:
            session = self._authentication.sign_in(fields["key"])
        except BanditServeError as error:
            said = problem(error)
            visitor = visitor_of(request, self._authentication)
            response = page_response("login.html", visitor, "/login", said.status, said=said.detail, to=to)
            if isinstance(error, Unauthenticated):
                response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            return response
        response = web.Response(status=303, headers={hdrs.LOCATION: to, hdrs.CACHE_CONTROL: "no-store"})
        response.set_cookie(
            COOKIE,
            session.text,
            max_age=LIFE_MS // 1000,
            path="/",
            httponly=True,
            samesite="Strict",
            secure="https" in (scheme_of(request), request.headers.get(hdrs.ORIGIN, "").partition(":")[0]),
        )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        await self._fields(request)
        response = web.Response(status=303, headers={hdrs.LOCATION: "/login"})
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    async def create(self, request: web.Request) -> web.Response:
        fields = await self._admitted(request)
        try:
            body = fields["document"].encode()
            experiment = self._experiment.decode(
                JSON_FORM,
                body,
                self._changes.mistakes(),
                lambda text: filled_experiment(text, self._definitions()),
            )
            live = await self._changes.create(experiment, actor(request))
        except BanditServeError as error:
            said = problem(error)
            return page_response(
                "new.html",
                visitor_of(request, self._authentication),
                "",
                said.status,
                said=said.detail,
                document=fields["document"],
                mistakes=said.errors or [],
            )
        return _see(f"/experiments/{live.experiment.id}")

    async def change(self, request: web.Request) -> web.Response:
        """Changes an experiment of the revision that the page showed; what is refused is said on the page."""
        fields, name = await self._admitted(request), request.match_info["experiment"]
        try:
            preview = await self._preview(name, fields)
            if preview is None:
                await self._change(name, actor(request), fields)
                return _see(f"/experiments/{name}#content")
            said, status = "", 200
        except BanditServeError as error:
            preview, refusal = None, problem(error)
            said, status = refusal.detail, refusal.status
        visitor = visitor_of(request, self._authentication)
        return await self._pages.experiment_page(
            request, visitor, said, status, preview=preview, fields=fields
        )

    async def _preview(self, name: str, fields: Fields) -> dict[str, float] | None:
        """Shares that the policy of a form would lead to, if that is what it asks for."""
        if fields["do"] != "policy" or not fields["preview"]:
            return None
        policy = self._policy.decode(JSON_FORM, fields["policy"].encode(), mistakes_of_policy)
        return await self._changes.shares_with(name, policy)

    async def _change(self, name: str, who: str, fields: Fields) -> None:
        changes, revision = self._changes, _revision(fields)
        told: dict[str, Any] = {"reason": _reason(fields), "if_match": revision}
        match fields["do"]:
            case "start":
                await changes.start(name, who, **told)
            case "pause":
                await changes.pause(name, who, **told)
            case "stop":
                asked = _read(self._stop, {"winner": fields["winner"] or None, "reason": told["reason"]})
                await changes.stop(name, who, winner=asked.winner, **told)
            case "policy":
                policy = self._policy.decode(JSON_FORM, fields["policy"].encode(), mistakes_of_policy)
                await changes.change_policy(name, policy, who, **told)
            case "arm":
                arm = self._arm.decode(JSON_FORM, fields["arm"].encode())
                await changes.add_arm(name, arm.arm, who, ramp=arm.ramp, **told)
            case "arm_status":
                await self._of_arm(fields["to"])(name, fields["arm"], who, **told)
            case _:
                raise InvalidInput("do: expected a change.", [FieldError("do", "expected a change")])

    def _of_arm(self, what: str) -> Callable[..., Awaitable[object]]:
        changes = self._changes
        known = {"pause": changes.pause_arm, "resume": changes.resume_arm, "remove": changes.remove_arm}
        if what not in known:
            detail = expected_one_of(what, list(known))
            raise InvalidInput(f"to: {detail}.", [FieldError("to", detail)])
        return known[what]

    async def change_model(self, request: web.Request) -> web.Response:
        fields, model = await self._admitted(request), request.match_info["model"]
        try:
            reason = _reason(fields)
            if fields["do"] == "rollback":
                await self._model_changes.rollback(model, actor(request), reason=reason)
            else:
                asked = _read(self._status, {"status": fields["status"], "reason": reason})
                await self._model_changes.set_status(
                    model, fields["version"], asked.status, actor(request), reason=reason
                )
        except BanditServeError as error:
            refusal = problem(error)
            visitor = visitor_of(request, self._authentication)
            return await self._pages.model_page(request, visitor, refusal.detail, refusal.status)
        return _see(f"/models/{model}")

    async def _admitted(self, request: web.Request) -> Fields:
        """Fields of a form whose sender may change something. Without any key, nothing of it is read."""
        if not self._authentication.is_open:
            self._authentication.require("any", self._authentication.holder(request.headers))
        fields = await self._fields(request)
        host = request.get(FORWARDED, NOTHING).host
        key = self._authentication.caller(
            "admin", request.headers, request.method, token=fields["token"], host=host
        )
        if key is not None:
            request[CALLER] = key.name
        return fields

    async def _fields(self, request: web.Request) -> Fields:
        if essence(request.headers.get(hdrs.CONTENT_TYPE, "")) != FORM:
            raise UnsupportedMedia(f"Expected a Content-Type of {FORM}.")
        body = await read_bytes(request, self._timeout_s)
        try:
            pairs = parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        except ValueError:
            raise InvalidInput("The form can not be read.") from None
        return Fields(pairs)


def _read(body: Body[T], content: dict[str, Any]) -> T:
    return body.decode(JSON_FORM, msgspec.json.encode(content))


def _revision(fields: Fields) -> int:
    """Revision that a page showed; −1, which is never the present one, for any other text."""
    text = fields["revision"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _reason(fields: Fields) -> str:
    reason = fields["reason"].strip()
    if not 1 <= len(reason) <= 1_000:
        detail = "expected a reason of 1 to 1,000 characters"
        raise InvalidInput(f"reason: {detail}.", [FieldError("reason", detail)])
    return reason


def _is_of_ours(path: str) -> bool:
    """Whether a path is of this service, and no way to another one."""
    return path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable() and path.isascii()


def _see(path: str) -> web.Response:
    return web.Response(status=303, headers={hdrs.LOCATION: path})
