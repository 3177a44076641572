"""Draw throughput and lost tasks over time as SVG, with one panel for each way of running the workers.

Colours follow the reader's theme; the background is the page's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .measure import Series

WIDTH, LEFT, RIGHT = 860, 64, 64
PANEL, GAP, TOP, BOTTOM = 150, 46, 62, 52

# Mid-tones with contrast on white, and lighter ones for dark pages.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333; }
.title { font-weight: 600; }
.small { font-size: 12px; }
.axis { stroke: #888; fill: none; }
.grid { stroke: #888; stroke-opacity: .25; fill: none; }
.restart { fill: #888; fill-opacity: .16; }
.done { stroke: #1f6fb5; fill: none; stroke-width: 1.6; }
.lost { stroke: #c62828; fill: none; stroke-width: 2; stroke-dasharray: 5 3; }
.lost-text { fill: #c62828; }
@media (prefers-color-scheme: dark) {
  text { fill: #ccc; }
  .done { stroke: #6cb6ff; }
  .lost { stroke: #ff7b72; }
  .lost-text { fill: #ff7b72; }
}
"""


@dataclass(frozen=True)
class Panel:
    """One way of running the workers.

    Attributes:
        restart: Start and end of what is shaded, in seconds of the series.
    """

    title: str
    series: Series
    restart: tuple[float, float]


def nice(largest: float) -> tuple[int, int]:
    """Return the end of an axis, and the step of its three to six labels, for values from 0 to `largest`."""
    for step in (s * 10**power for power in range(9) for s in (1, 2, 5)):
        if largest <= 5 * step:
            return max(step, step * math.ceil(largest / step)), step
    raise ValueError(f"no axis reaches {largest}")


def _points(values: Sequence[float], width: float, end: float, top: float, high: float) -> str:
    return " ".join(
        f"{LEFT + (second + 0.5) * width / end:.1f},{top + PANEL * (1 - value / high):.1f}"
        for second, value in enumerate(values)
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def draw(panels: Sequence[Panel], caption: str, shaded: str = "restart of all workers") -> str:
    """Return the picture. All panels have the same axes, so that they can be compared.

    Args:
        panels: From top to bottom.
        caption: What the picture shows.
        shaded: What is done to the fleet in the time that each panel shades.
    """
    width = WIDTH - LEFT - RIGHT
    height = TOP + len(panels) * (PANEL + GAP) - GAP + BOTTOM
    end = max(len(panel.series.done) for panel in panels)
    smoothed = [smooth(panel.series.done) for panel in panels]
    most, step = nice(max(max(values) for values in smoothed))
    gone, gone_step = nice(max(1, *(panel.series.lost[-1] for panel in panels)))
    seconds_step = nice(end)[1]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(caption)}</title>",
        f"<style>{STYLE}</style>",
        *_legend(shaded),
    ]
    for number, (panel, values) in enumerate(zip(panels, smoothed, strict=True)):
        top = TOP + number * (PANEL + GAP)
        begin, over = (max(0.0, min(float(end), moment)) for moment in panel.restart)
        parts.append(_text(LEFT, top - 8, panel.title, kind="title"))
        lost = panel.series.lost[-1]
        parts.append(_text(WIDTH - RIGHT, top - 8, f"{lost} lost", "end", "lost-text"))
        x, wide = LEFT + begin * width / end, max(1.5, (over - begin) * width / end)
        parts.append(
            f'<rect class="restart" x="{x:.1f}" y="{top}" width="{wide:.1f}" height="{PANEL}"/>'
        )
        for value in range(0, most + 1, step):
            y = top + PANEL * (1 - value / most)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>')
            parts.append(_text(LEFT - 8, y + 4, str(value), "end", "small"))
        for value in range(0, gone + 1, gone_step):
            y = top + PANEL * (1 - value / gone)
            parts.append(_text(WIDTH - RIGHT + 8, y + 4, str(value), kind="small lost-text"))
        parts.append(f'<path class="axis" d="M{LEFT} {top}v{PANEL}h{width}v-{PANEL}"/>')
        parts.append(f'<polyline class="done" points="{_points(values, width, end, top, most)}"/>')
        parts.append(
            f'<polyline class="lost" points="{_points(panel.series.lost, width, end, top, gone)}"/>'
        )
        if number == len(panels) - 1:
            for second in range(0, end + 1, seconds_step):
                x = LEFT + second * width / end
                parts.append(_text(x, top + PANEL + 18, str(second), "middle", "small"))
    middle = TOP + (height - TOP - BOTTOM) / 2
    parts.append(_text(LEFT + width / 2, height - 12, "seconds", "middle"))
    parts.append(_sideways(16, middle, "tasks ended a second"))
    parts.append(_sideways(WIDTH - 10, middle, "tasks lost, sum", "lost-text"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _sideways(x: float, y: float, text: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return (
        f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)" text-anchor="middle"{style}>'
        f"{escape(text)}</text>"
    )


def _legend(shaded: str) -> list[str]:
    y = 20
    return [
        f'<path class="done" d="M{LEFT} {y}h28"/>',
        _text(LEFT + 36, y + 4, "tasks ended a second (mean of 5 s)"),
        f'<path class="lost" d="M{LEFT + 300} {y}h28"/>',
        _text(LEFT + 336, y + 4, "tasks lost, sum"),
        f'<rect class="restart" x="{LEFT + 472}" y="{y - 9}" width="28" height="18"/>',
        _text(LEFT + 508, y + 4, shaded),
    ]


def smooth(values: Sequence[int], span: int = 5) -> list[float]:
    """Return the mean of `span` values around each value, or of fewer at the edges."""
    half = span // 2
    found = []
    for index in range(len(values)):
        part = values[max(0, index - half) : index + half + 1]
        found.append(sum(part) / len(part))
    return found
