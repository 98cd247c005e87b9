"""Themes of pictures: colours by name for light and dark, as variables of a page or as they are."""

from __future__ import annotations

from typing import Literal

Theme = Literal["light", "dark"]

COLOURS = 8
"""Colours of series, `s0` to `s7`."""
FONTS = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif'

PALETTES: dict[Theme, dict[str, str]] = {
    "light": {
        "paper": "#fcfcfb",
        "ink": "#16181d",
        "soft": "#646a73",
        "grid": "#e7e7e4",
        "faint": "#f2f2f0",
        "axis": "#9a9ea5",
        "s0": "#2a78d6",
        "s1": "#e0652b",
        "s2": "#008a4a",
        "s3": "#a03cc0",
        "s4": "#c98a00",
        "s5": "#10a0a8",
        "s6": "#d6417f",
        "s7": "#5b5bd0",
        "even": "#8a8f98",
    },
    "dark": {
        "paper": "#16181c",
        "ink": "#eceef1",
        "soft": "#9da4ae",
        "grid": "#2a2e34",
        "faint": "#202329",
        "axis": "#626a75",
        "s0": "#5ba3f5",
        "s1": "#f0854f",
        "s2": "#3fbf7f",
        "s3": "#c98bea",
        "s4": "#e0ae3a",
        "s5": "#3cc4c8",
        "s6": "#f07bab",
        "s7": "#9a9cf7",
        "even": "#8b929c",
    },
}


def variables(theme: Theme) -> str:
    """Declarations that make a theme's colours variables."""
    colours = " ".join(f"--{name}: {value};" for name, value in PALETTES[theme].items())
    return f"color-scheme: {theme}; {colours}"


ROOT = (
    f":root {{ {variables('light')} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {variables('dark')} }} }}\n"
    f":root[data-theme=light] {{ {variables('light')} }}\n"
    f":root[data-theme=dark] {{ {variables('dark')} }}\n"
    f"@media print {{ :root {{ {variables('light')} }} }}\n"
)
"""Rules of a page that follows its reader's theme, or has that of `data-theme`; on paper it is light."""


def with_colours(style: str, theme: Theme) -> str:
    """`style` with the colours of a theme in place of the variables, for readers of SVG that know none."""
    for name, value in PALETTES[theme].items():
        style = style.replace(f"var(--{name})", value)
    return style
