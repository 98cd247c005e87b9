"""Pages in a real browser: Debian's Chromium by Playwright, and what a page said and asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Browser with further `flags`; where there is none the test is skipped, in CI it fails.

    The shell without a window opens a page in half the time of the whole browser.
    """
    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no chromium on PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield browser
        browser.close()


class Watched:
    """Page that keeps what its console said and which addresses it asked for."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def numbers(self) -> dict[str, list[tuple[str, str]]]:
        """Values and texts of the elements with `data-name`, by that name."""
        found: dict[str, list[tuple[str, str]]] = {}
        elements = self.page.eval_on_selector_all(
            "[data-name]", "all => all.map(e => [e.dataset.name, e.dataset.value, e.textContent.trim()])"
        )
        for name, value, text in elements:
            found.setdefault(name, []).append((value, text))
        return found

    def close(self) -> None:
        self.context.close()
