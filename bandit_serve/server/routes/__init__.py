"""Map of all routes, from which routing, `/openapi.json` and the tests of all routes come."""

from __future__ import annotations

from bandit_serve.server.route import Route
from bandit_serve.server.routes.decisions import DECISIONS
from bandit_serve.server.routes.definitions import DEFINITIONS
from bandit_serve.server.routes.deployments import DEPLOYMENTS
from bandit_serve.server.routes.experiments import EXPERIMENTS
from bandit_serve.server.routes.flags import FLAGS
from bandit_serve.server.routes.inference import INFERENCE
from bandit_serve.server.routes.keys import KEYS
from bandit_serve.server.routes.models import MODELS
from bandit_serve.server.routes.operations import OPERATIONS
from bandit_serve.server.routes.pages import PAGES
from bandit_serve.server.routes.promotions import PROMOTIONS

UNMATCHED = "unmatched"
ROUTES: tuple[Route, ...] = (
    *DECISIONS,
    *FLAGS,
    *INFERENCE,
    *OPERATIONS,
    *EXPERIMENTS,
    *DEFINITIONS,
    *MODELS,
    *PROMOTIONS,
    *KEYS,
    *DEPLOYMENTS,
)
OPEN_PATHS = frozenset(route.path for route in ROUTES if route.open)
ROUTE_LABELS: tuple[str, ...] = (*(route.label for route in (*ROUTES, *PAGES)), UNMATCHED)
