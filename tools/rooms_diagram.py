"""Draw docs/rooms.svg: the rooms of dashdeploy on their floors. Each imports from the floors below it only.

python tools/rooms_diagram.py
"""

from __future__ import annotations

from pathlib import Path

DRAWING = Path(__file__).resolve().parent.parent / "docs" / "rooms.svg"
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("commands", ("cli",)),
    ("all stages; many runs", ("pipeline", "compare")),
    ("stages", ("training", "export", "packages", "bench")),
    ("shared by stages", ("teachers", "students", "data", "runtime", "metrics", "report")),
    ("mathematics", ("diffusion",)),
    (
        "contracts and tools",
        ("recipe", "target", "package", "stages", "errors", "lazy", "locate", "seeds", "weights_file"),
    ),
)
"""From the top down: what a floor is for, and its rooms (folders or modules of dashdeploy/)."""
APART = "doctor"
"""It imports from the ground floor, and only commands import it."""
WIDTH, LABEL, FLOOR, GAP, ROOM = 900, 170, 52, 10, 34


def box(name: str, x: float, y: float, width: float, height: float = ROOM) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4" '
        'fill="#dfe6f3" stroke="#4059a8"/>'
        f'<text x="{x + width / 2:.0f}" y="{y + height / 2 + 5:.0f}" text-anchor="middle">{name}</text>'
    )


def drawing() -> str:
    """The SVG, on white so that it reads in a dark theme too."""
    apart_width, right = 90, WIDTH - 110
    height = len(FLOORS) * (FLOOR + GAP) + GAP
    parts = []
    for i, (label, rooms) in enumerate(FLOORS):
        y = GAP + i * (FLOOR + GAP)
        end = right if 0 < i < len(FLOORS) - 1 else WIDTH - GAP  # the room apart stands between top and ground
        parts.append(f'<rect x="{GAP}" y="{y}" width="{end - GAP}" height="{FLOOR}" rx="6" fill="#f3f4f7"/>')
        parts.append(f'<text x="{2 * GAP}" y="{y + FLOOR / 2 + 5:.0f}" fill="#555">{label}</text>')
        widths = [max(54, 8 * len(room) + 14) for room in rooms]
        x = LABEL + GAP
        scale = min(1.0, (end - x - len(rooms) * 6) / sum(widths))
        for room, width in zip(rooms, widths, strict=True):
            parts.append(box(room, x, y + (FLOOR - ROOM) / 2, width * scale))
            x += width * scale + 6
    top, bottom = GAP + FLOOR + GAP, height - GAP - FLOOR - GAP
    parts.append(box(APART, WIDTH - GAP - apart_width, top, apart_width, bottom - top))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="14">\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
