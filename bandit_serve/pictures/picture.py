"""Screenshot of a page as PNG, by an installed Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from bandit_serve.errors import BanditServeError, UsageError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
WIDTH, HEIGHT = 1120, 680
PIXEL_RATIO = 2
TIMEOUT_S = 60.0
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)


def find_browser() -> str:
    """Path of a browser; raises `UsageError` where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UsageError(
            "A PNG needs Chromium or Chrome on the PATH; an HTML plot needs nothing: --plot regret.html."
        )
    return browser


def save_picture(html: str, path: Path) -> None:
    """Saves a page as PNG of WIDTH × HEIGHT at twice the resolution. Raises `BanditServeError` if the browser fails."""
    browser = find_browser()
    with TemporaryDirectory(prefix="bandit-serve-picture-", ignore_cleanup_errors=True) as folder:
        page, picture = Path(folder, "page.html"), Path(folder, "picture.png")
        page.write_text(html, encoding="utf-8")
        # Chromium refuses to run sandboxed as root; the page is our own.
        own = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        command = [
            browser,
            *FLAGS,
            *own,
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--force-device-scale-factor={PIXEL_RATIO}",
            f"--screenshot={picture}",
            page.as_uri(),
        ]
        try:
            subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BanditServeError(f"{browser} made no picture: {error}.") from None
        if not picture.exists():
            raise BanditServeError(f"{browser} made no picture of the plot; --plot makes an HTML page.")
        shutil.copyfile(picture, path)
