"""Draws the pictures of docs/how_it_works.md, as SVG that is legible on light and dark pages.

python scripts/draw_method.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

Point = tuple[float, float]

_STYLE = """
svg { --ink: #1f2937; --soft: #64748b; --faint: #cbd5e1; --old: #1d4ed8; --new: #b45309; --free: #047857; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e5e7eb; --soft: #a8b3c4; --faint: #4b5563; --old: #7aa7ff; --new: #fbbf24; --free: #4ade80; }
}
text { font: 15px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink); }
.small { font-size: 13px; fill: var(--soft); } .maths { font-style: italic; }
.old { stroke: var(--old); } .new { stroke: var(--new); } .free { stroke: var(--free); }
.soft { stroke: var(--soft); } .ink { stroke: var(--ink); } .dashed { stroke-dasharray: 4 4; }
.fill-old { fill: var(--old); } .fill-new { fill: var(--new); } .fill-free { fill: var(--free); }
.fill-soft { fill: var(--soft); } .fill-ink { fill: var(--ink); } .tint { fill-opacity: 0.16; }
path, line, rect { fill: none; stroke-width: 2; }
path.fill-old, rect.fill-old { fill: var(--old); } rect.fill-free { fill: var(--free); }
rect.fill-soft { fill: var(--soft); } rect.fill-faint { fill: var(--faint); }
"""


def picture(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A whole SVG file; ``title`` is what a screen reader says of it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
    return "\n".join([head, f"<title>{title}</title>", f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def text(at: Point, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a point, ``anchor``ed there by their start, middle or end."""
    return f'<text x="{at[0]:g}" y="{at[1]:g}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def line(start: Point, end: Point, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" class="{kind}"/>'


def arrow(start: Point, end: Point, colour: str, kind: str = "") -> str:
    """A line with a head at its end."""
    length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    x, y = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    back = (end[0] - 11 * x, end[1] - 11 * y)
    corners = [end, (back[0] - 5 * y, back[1] + 5 * x), (back[0] + 5 * y, back[1] - 5 * x)]
    head = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
    return f'{line(start, back, f"{colour} {kind}")}<polygon points="{head}" class="fill-{colour}"/>'


def box(corner: Point, width: float, height: float, kind: str) -> str:
    """A rectangle, from its upper left corner."""
    return f'<rect x="{corner[0]:g}" y="{corner[1]:g}" width="{width:g}" height="{height:g}" class="{kind}"/>'


def dot(at: Point, kind: str) -> str:
    """A point that is seen."""
    return f'<circle cx="{at[0]:g}" cy="{at[1]:g}" r="5" class="{kind}"/>'


def space() -> str:
    """Old inputs in a plane, new ones above it."""
    old = [(130, 232), (180, 205), (215, 245), (250, 190), (290, 222), (330, 200), (365, 175), (205, 178)]
    new = [((170, 222), 86), ((270, 240), 60), ((318, 185), 92), ((225, 215), 40)]
    parts = [
        '<path d="M50 262 L330 262 L445 158 L165 158 Z" class="old fill-old tint"/>',
        text((300, 254), "S", "maths"),
        *(dot(point, "fill-old") for point in old),
    ]
    for (x, y), height in new:
        parts += [line((x, y), (x, y - height), "new dashed"), dot((x, y - height), "fill-new")]
    parts += [
        arrow((420, 178), (420, 40), "free"),
        text((428, 60), "free to learn in"),
        dot((478, 110), "fill-old"),
        text((492, 115), "inputs of earlier tasks"),
        dot((478, 138), "fill-new"),
        text((492, 143), "inputs of a new task"),
        text((478, 186), "A change D with D S = 0 sees", "small"),
        text((478, 204), "the height above the plane alone.", "small"),
        text((478, 222), "Where that is 0, the layer's", "small"),
        text((478, 240), "output stays what it was.", "small"),
    ]
    return picture(700, 290, "The input space of one layer: earlier inputs lie in S, new ones also beside it", parts)


def step() -> str:
    """A gradient projected, tilted by Adam, projected once more."""
    parts = []
    origins = [(60, 220), (290, 220), (520, 220)]
    titles = ["1  project the gradient", "2  Adam tilts it", "3  project the step"]
    for (x, y), title in zip(origins, titles, strict=True):
        parts += [
            text((x - 30, 28), title),
            line((x, y), (x + 140, y), "old"),
            text((x + 140, y + 20), "S", "maths", "end"),
            line((x, y), (x, 50), "soft"),
            text((x - 8, 62), "free", "small", "end"),
        ]
    (a, y), (b, _), (c, _) = origins
    parts += [
        arrow((a, y), (a + 110, y - 90), "new"),
        text((a + 98, y - 100), "G", "maths"),
        line((a + 110, y - 90), (a, y - 90), "soft dashed"),
        arrow((a, y), (a, y - 90), "free"),
        arrow((b, y), (b, y - 90), "free"),
        arrow((b, y), (b + 48, y - 120), "new"),
        text((b + 50, y - 128), "direction", "small"),
        arrow((c, y), (c + 48, y - 120), "new"),
        line((c + 48, y - 120), (c, y - 120), "soft dashed"),
        arrow((c, y), (c, y - 120), "free"),
        text((c + 12, y - 134), "step: nothing along S", "small"),
        text(
            (30, 268),
            "Adam divides every coordinate of a weight by its own size, which tilts a projected gradient into S.",
            "small",
        ),
    ]
    return picture(700, 285, "A step is projected twice: the gradient before Adam, the direction after", parts)


def core() -> str:
    """The full-rank layer: W + U Z V^T, with V^T S = 0."""
    top, tall, wide, k = 60, 180, 150, 30
    u, z, v = 290, 345, 400
    parts = [
        box((60, top), wide, tall, "ink fill-faint"),
        text((135, 155), "W", "maths", "middle"),
        text((135, top - 12), "in", "small", "middle"),
        text((50, 155), "out", "small", "end"),
        text((135, 262), "frozen", "small", "middle"),
        text((248, 157), "+", "", "middle"),
        box((u, top), k, tall, "soft fill-soft tint"),
        text((u + k / 2, 155), "U", "maths", "middle"),
        text((u + k / 2, top - 12), "k", "small", "middle"),
        box((z, top), k, k, "free fill-free"),
        text((z + k / 2, top + k + 20), "Z", "maths", "middle"),
        text((z + k / 2, top - 12), "k", "small", "middle"),
        text((z + k / 2, top + k + 40), "learns", "small", "middle"),
        box((v, top), wide, k, "soft fill-soft tint"),
        text((v + wide / 2, top + 20), "Vᵀ", "maths", "middle"),
        text((v + wide / 2, top - 12), "in", "small", "middle"),
        box((v, 160), wide, 56, "old fill-old tint"),
        text((v + wide / 2, 193), "Sᵀ", "maths", "middle"),
        text((v + wide + 16, 180), "what earlier tasks", "small"),
        text((v + wide + 16, 198), "depend on", "small"),
        text((v + wide + 16, top + 20), "VᵀS = 0", "maths"),
        line((v + wide / 2, top + k), (v + wide / 2, 160), "soft dashed"),
        text((v + wide / 2, 262), "refreshed from the gradient, off S", "small", "middle"),
    ]
    return picture(700, 285, "A full-rank layer learns a small core Z between U and V, and V keeps off S", parts)


def room() -> str:
    """A space that fills up, task by task, up to its cap."""
    left, wide, cap = 110, 480, 0.75
    shares = [0.22, 0.14, 0.11, 0.08]
    parts = [text((left, 28), "width of the layer's input", "small"), text((left + wide, 28), "100%", "small", "end")]
    taken = 0.0
    for number, share in enumerate(shares):
        y = 44 + 44 * number
        parts += [text((left - 14, y + 20), f"task {number + 1}", "", "end"), box((left, y), wide, 28, "soft")]
        if taken:
            parts.append(box((left, y), wide * taken, 28, "old fill-old tint"))
        parts.append(box((left + wide * taken, y), wide * share, 28, "old fill-old"))
        taken += share
    x = left + wide * cap
    parts += [
        line((x, 36), (x, 222), "new dashed"),
        text((x, 242), "cap: max_share", "small", "middle"),
        text((left, 242), "S, with what each task adds", "small"),
        text((x + 14, 195), "always free", "small"),
    ]
    return picture(700, 255, "The gradient space of a layer grows with every task, up to a cap", parts)


DRAWINGS = {"space.svg": space, "step.svg": step, "core.svg": core, "room.svg": room}


def main(folder: Path) -> None:
    """Write every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (folder / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
