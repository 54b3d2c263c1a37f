"""Plots as SVG that lives inside a page: no outside reference, no fixed colours.

Models nothing; draws what a replay sampled. Leaves out interaction: the page works without scripts.

Invariant: the text has no ``http`` reference (namespaces and metadata are gone, HTML needs
neither), and colours are the page's own (``currentColor`` and custom properties), so it follows the
reader's light or dark setting.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["saved_tag_memory"]

# Stand-ins, replaced by what the page defines. Near-black, so that a viewer that misses one still
# reads it.
INK = "#010203"
LINE = "#010204"
GRID = "#010205"
_PAGE_COLOURS = {INK: "currentColor", LINE: "var(--accent)", GRID: "var(--rule)"}

KIB = 1024


def saved_tag_memory(accesses: Sequence[int], saved_bytes: Sequence[int], title: str) -> str:
    """Saved-tag memory over a replay.

    Args:
        accesses: How many accesses had been replayed, ascending.
        saved_bytes: What the tag store held then, in bytes.
        title: Said to those who do not see the picture.

    Returns:
        An ``<svg>`` element.
    """
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only reports need
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(
        {
            "svg.fonttype": "none",  # text stays text, in the page's font
            "svg.hashsalt": "tagvisor",  # ids are random otherwise
            "font.size": 11,
            "font.family": "sans-serif",
        }
    ):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, accesses, saved_bytes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    return _for_page(text.getvalue(), title)


def _draw(axes: object, accesses: Sequence[int], saved_bytes: Sequence[int]) -> None:
    from matplotlib.axes import Axes  # noqa: PLC0415
    from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: PLC0415

    assert isinstance(axes, Axes)  # noqa: S101 - for the type checker
    kib = [value / KIB for value in saved_bytes]
    axes.fill_between(accesses, kib, color=LINE, alpha=0.15, linewidth=0)
    axes.plot(accesses, kib, color=LINE, linewidth=1.6)
    axes.set_xlabel("accesses replayed", color=INK)
    axes.set_ylabel("saved tags (KiB)", color=INK)
    axes.set_ylim(bottom=0, top=max([*kib, 1.0]) * 1.1)
    axes.set_xlim(left=0, right=max([*accesses, 1]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK, color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def _for_page(svg: str, title: str) -> str:
    from xml.sax.saxutils import escape, quoteattr  # noqa: PLC0415

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    view_box = re.search(r'viewBox="[^"]*"', body)
    opening = f'<svg role="img" aria-label={quoteattr(title)} {view_box[0] if view_box else ""}>'
    body = re.sub(r"<svg[^>]*>", f"{opening}<title>{escape(title)}</title>", body, count=1)
    for stand_in, colour in _PAGE_COLOURS.items():
        body = body.replace(stand_in, colour)
    return body.strip()
