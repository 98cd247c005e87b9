"""Visitors of pages, and the answers that they get: a page, or one that says what went wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

from aiohttp import hdrs, web
from msgspec import UNSET

from bandit_serve import __version__
from bandit_serve.dashboard.templates import rendered
from bandit_serve.errors import Unauthenticated
from bandit_serve.server.admission import READS
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.problems import problem, problem_parts
from bandit_serve.server.wire import CALLER

HTML = "text/html"
# With the policy `no-referrer` a form would send `Origin: null`.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


LOST = "Nothing was changed: the session has ended. Sign in, and do it again."


class Visitor(NamedTuple):
    """Who looks at a page: the name of the key, the token of the session, and whether forms are of use."""

    name: str = ""
    token: str = ""
    may_change: bool = False


def visitor_of(request: web.Request, authentication: Authentication) -> Visitor:
    if authentication.is_open:
        return Visitor(may_change=True)
    session = authentication.session(request.headers)
    if session is None:
        return Visitor(request.get(CALLER, ""))
    return Visitor(session.key.name, session.token, session.key.scope == "admin")


def page_response(
    template: str, visitor: Visitor, here: str, status: int = 200, **content: Any
) -> web.Response:
    """Answer with a page. `content` is for its template; `live` is where it is followed, if anywhere."""
    common = {"live": "", "said": "", "version": __version__, **content}
    body = rendered(template, visitor=visitor, here=here, **common)
    return web.Response(
        body=body.encode(), status=status, headers={**HEADERS, "Content-Type": f"{HTML}; charset=utf-8"}
    )


def wants_page(request: web.Request) -> bool:
    """Whether a caller would rather have a page than a problem in JSON."""
    return HTML in request.headers.get(hdrs.ACCEPT, "")


def failure_response(request: web.Request, error: Exception) -> web.Response:
    """Page for an exception: what went wrong in a sentence, or a form for a key."""
    status, headers, _ = problem_parts(error)
    if isinstance(error, Unauthenticated):
        lost = "" if request.method in READS else LOST
        response = page_response("login.html", Visitor(), "/login", status, to=_page_of(request), said=lost)
    else:
        said = problem(error)
        mistakes = [] if said.errors is UNSET else said.errors
        told = {"title": said.title, "detail": said.detail, "mistakes": mistakes}
        back = "" if request.method in READS else _page_of(request)
        response = page_response("failure.html", Visitor(), "", status, **told, back=back)
    response.headers.update({name: value for name, value in headers.items() if name != hdrs.CONTENT_TYPE})
    return response


def _page_of(request: web.Request) -> str:
    """Page that was asked for, or from which a form was sent."""
    return request.path_qs if request.method in READS else request.path.removesuffix("/change")
