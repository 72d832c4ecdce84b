"""Draw docs/rooms.svg: the rooms of dashdeploy on their floors. Each imports from the floors below it only.

python tools/rooms_diagram.py
"""

from __future__ import annotations

from pathlib import Path

DRAWING = Path(__file__).resolve().parent.parent / "docs" / "rooms.svg"
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("commands", ("cli",)),
    ("all stages; many runs", ("preflight", "pipeline", "compare", "show")),
    ("stages", ("training", "export", "packages", "bench")),
    ("shared by stages", ("teachers", "students", "data", "runtime", "metrics", "report")),
    ("mathematics", ("diffusion",)),
    (
        "contracts and tools",
        (
            *("recipe", "objectives", "target", "artifact", "figures", "manifest", "checked", "signing", "stages"),
            *("cuda", "errors", "fields", "files", "lazy", "locate", "peak_memory", "progress", "ranks", "seeds"),
            *("terminal", "weights_file", "autoencoder"),
        ),
    ),
)
"""From the top down: what a floor is for, and its rooms (folders or modules of dashdeploy/)."""
APART = "doctor"
"""It imports from the ground floor, and only commands import it."""
WIDTH, LABEL, GAP, ROOM, BETWEEN, ASIDE = 900, 190, 10, 34, 6, 90


def box(name: str, x: float, y: float, width: float, height: float = ROOM) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4" '
        'fill="#dfe6f3" stroke="#4059a8"/>'
        f'<text x="{x + width / 2:.0f}" y="{y + height / 2 + 5:.0f}" text-anchor="middle">{name}</text>'
    )


def boxes(rooms: tuple[str, ...], y: float, end: float) -> tuple[list[str], float]:
    """Rooms from left to right, in as many rows as they need before `end`, and where the last row ends."""
    drawn, x = [], float(LABEL)
    for room in rooms:
        width = max(54, 9 * len(room) + 12)
        if x + width > end:
            x, y = LABEL, y + ROOM + BETWEEN
        drawn.append(box(room, x, y, width))
        x += width + BETWEEN
    return drawn, y + ROOM


def drawing() -> str:
    """The SVG, on white so that it reads in a dark theme too."""
    parts: list[str] = []
    tops: list[float] = []
    y = float(GAP)
    for i, (label, rooms) in enumerate(FLOORS):
        beside_apart = 0 < i < len(FLOORS) - 1  # the room apart stands between the top floor and the ground
        end = WIDTH - GAP - (ASIDE + GAP if beside_apart else 0)
        drawn, bottom = boxes(rooms, y + GAP, end - GAP)
        parts.append(
            f'<rect x="{GAP}" y="{y:.0f}" width="{end - GAP}" height="{bottom + GAP - y:.0f}" fill="#f3f4f7"/>'
        )
        parts.append(f'<text x="{2 * GAP}" y="{(y + bottom + GAP) / 2 + 5:.0f}" fill="#555">{label}</text>')
        parts += drawn
        tops.append(y)
        y = bottom + 2 * GAP
    parts.append(box(APART, WIDTH - GAP - ASIDE, tops[1], ASIDE, tops[-1] - GAP - tops[1]))
    head = f'viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}" font-family="sans-serif" font-size="14"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {head}>',
        f'<rect width="{WIDTH}" height="{y:.0f}" fill="#fff"/>',
    ]
    return "\n".join([*lines, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
