"""Pictures of the dashboard: a service with experiments and models that is fed now, and its pages in a browser.

    python docs/pictures/dashboard.py [--seconds 40] [--pages FOLDER]

`--pages` takes every page in light and dark, on a desk, on a phone and printed, to be looked at. Needs Chromium.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))
from browsers import chromium
from dashboard_world import EXPERIMENT, MODEL, World
from services import ThrowawayService

FOLDER = Path(__file__).resolve().parent
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGES = {
    "overview": "/",
    "experiment": f"/experiments/{EXPERIMENT}",
    "guarded": "/experiments/one-click-buy",
    "contextual": "/experiments/feed-order?by=device",
    "models": "/models",
    "model": f"/models/{MODEL}?a=v1&b=v3",
    "service": "/service",
    "simulator": "/simulator",
    "new": "/new",
    "login": "/login",
}
LOOKED_AT = "() => [...document.querySelectorAll('.found')].every(each => each.textContent.trim() !== '…')"
"""In a browser: whether every row of the list has its finding."""
IN_DOCS = ("overview", "experiment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--pages", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, ThrowawayService(Path(data)) as service:
        world = World(service, random.Random(7))
        world.begin()
        world.end()
        over = threading.Event()
        visitors = threading.Thread(target=visit, args=(world, over))
        visitors.start()
        try:
            time.sleep(options.seconds)
            with chromium() as browser:
                if options.pages is None:
                    in_docs(browser, service)
                else:
                    everything(browser, service, options.pages)
        finally:
            over.set()
            visitors.join()


def visit(world: World, over: threading.Event) -> None:
    """Sends visitors until it is over, while pictures are taken, too."""
    while not over.wait(0.1):
        world.visit()


def in_docs(browser: Any, service: ThrowawayService) -> None:
    for name in IN_DOCS:
        for theme in THEMES:
            page = opened(browser, service.url + PAGES[name], theme, DESK)
            page.screenshot(path=FOLDER / f"dashboard-{name}-{theme}.png", animations="disabled")
            page.context.close()


def everything(browser: Any, service: ThrowawayService, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in PAGES.items():
        for theme in THEMES:
            for size, viewport in (("desk", DESK), ("phone", PHONE)):
                page = opened(browser, service.url + path, theme, viewport)
                page.screenshot(path=folder / f"{name}-{theme}-{size}.png", full_page=True)
                page.context.close()
        page = opened(browser, service.url + path, "dark", DESK)
        page.pdf(path=folder / f"{name}.pdf", prefer_css_page_size=True)
        page.context.close()


def opened(browser: Any, url: str, theme: Theme, viewport: dict[str, int]) -> Any:
    context = browser.new_context(color_scheme=theme, viewport=viewport, device_scale_factor=1.5)
    page = context.new_page()
    page.goto(url)
    page.wait_for_function(LOOKED_AT)
    return page


if __name__ == "__main__":
    main()
