"""Cross-origin requests: pages of the origins that the operator named may use a few routes (WHATWG Fetch, 3.2).

Every other route stays closed to them: a browser keeps its answers from such a page, and refuses to send it JSON.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from bandit_serve.settings import Settings

PREFIX = "/ofrep/"
PATHS = frozenset({"/v1/rewards", "/v1/exposures"})
METHOD = "POST"
REQUEST_HEADERS = "content-type, if-none-match, authorization"
ANSWER_HEADERS = "ETag"
REMEMBERED_S = 600


class CrossOrigin:
    """Answers to pages of the setting `cors_origins`. Credentials of the browser are never allowed."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.allowed_origins)

    def preflight(self, request: web.Request) -> web.Response | None:
        """Answer to a browser that asks whether a page may send a request; None for other requests."""
        asks = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not asks or not self._may(request):
            return None
        allowed = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHOD,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(REMEMBERED_S),
        }
        return web.Response(status=204, headers=allowed)

    def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds to an answer, of whatever status, who may read it."""
        if not _is_covered(request.path):
            return
        response.headers[hdrs.VARY] = hdrs.ORIGIN
        if self._may(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ANSWER_HEADERS

    def _may(self, request: web.Request) -> bool:
        return request.headers.get(hdrs.ORIGIN) in self._origins and _is_covered(request.path)


def _is_covered(path: str) -> bool:
    return path in PATHS or path.startswith(PREFIX)
