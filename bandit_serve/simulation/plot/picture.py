"""A page as a PNG, by a Chromium that is there."""

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
SHARPNESS = 2
LIMIT_S = 60.0
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
    """Its path. UsageError where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise UsageError(
            "A PNG needs Chromium or Chrome on the PATH; an HTML plot needs nothing: --plot regret.html."
        )
    return found


def save_picture(html: str, path: Path) -> None:
    """What `html` looks like, WIDTH × HEIGHT at twice the sharpness. BanditServeError where it could not be made."""
    browser = find_browser()
    with TemporaryDirectory(prefix="bandit-serve-picture-", ignore_cleanup_errors=True) as folder:
        page, picture = Path(folder, "page.html"), Path(folder, "picture.png")
        page.write_text(html, encoding="utf-8")
        # A browser of root has no sandbox; what it shows is our own page.
        own = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        command = [
            browser,
            *FLAGS,
            *own,
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--force-device-scale-factor={SHARPNESS}",
            f"--screenshot={picture}",
            page.as_uri(),
        ]
        try:
            subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BanditServeError(f"{browser} made no picture: {error}.") from None
        if not picture.exists():
            raise BanditServeError(f"{browser} made no picture of the plot; --plot makes an HTML page.")
        shutil.copyfile(picture, path)
