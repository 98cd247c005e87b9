"""Pages for people: rows like those of the API, which describes none of them but the first."""

from __future__ import annotations

from bandit_serve.dashboard.templates import ASSETS
from bandit_serve.server.route import FORM, HtmlPage, Query, Route

MAX_FORM_BYTES = 512 * 1024


def _page(path: str, handler: str, summary: str, *query: Query, group: str = "pages") -> Route:
    return Route("GET", path, f"{group}.{handler}", summary, "read", answers=HtmlPage, query=query)


def _form(path: str, handler: str, summary: str) -> Route:
    """Row of a form. Its handler asks for the key, as the session's token is in the body."""
    return Route(
        "POST",
        path,
        f"forms.{handler}",
        summary,
        "nothing",
        takes=dict,
        answers=HtmlPage,
        media=(FORM,),
        max_body=MAX_FORM_BYTES,
    )


LIST = (
    Query("q", "Text in a name, an owner or a tag."),
    Query("status", "A status, or `warnings`."),
    Query("sort", "`attention` (default), `name`, `owner`, `started` or `decisions`."),
    Query("page", "Number of the page, from 1."),
)
BY = Query("by", "A context field, by whose values the results are split.")
OF = Query("of", "A figure or table of its page.")
THEME = Query("theme", "`light` (default) or `dark`.")
VERSIONS = (Query("a", "A version."), Query("b", "Another."))

SIMULATION = (
    Query("world", "A simulation as JSON, as `bandit-serve simulate` takes it."),
    Query("like", "An experiment, whose means are those to begin with."),
    Query("axis", "`linear` (default) or `log`."),
)

PAGES: tuple[Route, ...] = (
    _page("/live", "overview_live", "What changes on the overview.", *LIST),
    _page("/experiments/{experiment}", "experiment", "An experiment.", BY),
    _page("/experiments/{experiment}/live", "experiment_live", "What changes on its page.", BY),
    _page("/experiments/{experiment}/picture", "picture", "Its pictures as SVG.", OF, BY, THEME),
    _page("/experiments/{experiment}/table", "table", "Its results as CSV.", OF, BY),
    _form("/experiments/{experiment}/change", "change", "Changes it."),
    _page("/new", "new", "A form for an experiment."),
    _form("/new", "create", "Makes it."),
    _page("/models", "models", "All models."),
    _page("/models/{model}", "model", "A model.", *VERSIONS),
    _form("/models/{model}/change", "change_model", "Changes it."),
    _page("/simulator", "page", "Policies in a world that is described.", *SIMULATION, group="simulator"),
    _page("/service", "service", "The service."),
    _page("/service/live", "service_live", "What changes on its page."),
    Route("GET", "/login", "pages.login", "A form for a key.", "nothing", answers=HtmlPage),
    _form("/login", "sign_in", "Signs in."),
    _form("/logout", "sign_out", "Signs out."),
    Route(
        "GET",
        ASSETS + "{asset}",
        "pages.asset",
        "Style, script and icon.",
        "nothing",
        answers=HtmlPage,
        open=True,
    ),
)
