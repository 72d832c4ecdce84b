"""Hypothesis strategies that break things: values in trees, text, bytes, safetensors headers, arguments."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

HOSTILE: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        " ",
        "0",
        "nan",
        "x" * 300,
        "a\x00b",
        "\x1b[31mred",
        "../../etc/passwd",
        "/",
        ".",
        "é\u202e",
    ),
    *(0, 1, -1, 2, 3, 7, 1000, 5000, 100_000, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**18, 10**30),
    *(0.0, -0.0, 0.5, 1e-300, 1e-9, 1e9, 1e300, -1e300, float("nan"), float("inf"), float("-inf")),
    *([], {}, [0], [[]], [1, 1], {"kind": "x"}, {"": 0}, ["a\x00b"], [[[[[[]]]]]], [-1], [10**18]),
]
"""Values that break readers: of a wrong type, out of every range, not finite, with characters no name should have."""

Place = tuple[str | int, ...]


def places(tree: Any, here: Place = ()) -> Iterator[Place]:
    """Every place in a tree of dicts and lists, but for its root; of a long list only some."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for index, (step, value) in enumerate(items):
        if isinstance(tree, list) and 4 < index < len(tree) - 1:
            continue
        yield (*here, step)
        yield from places(value, (*here, step))


@st.composite
def trees(draw: st.DrawFn, tree: Any) -> Any:
    """A copy of a tree with one to three changes: a value replaced, removed, renamed, doubled, nudged or swapped."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        everywhere = list(places(changed))
        if not everywhere:
            return changed
        *above, last = draw(st.sampled_from(everywhere))
        section = changed
        for step in above:
            section = section[step]
        _change(draw, section, last)
    return changed


def _change(draw: st.DrawFn, section: Any, last: Any) -> None:
    value = section[last]
    how = draw(st.sampled_from(["hostile"] * 4 + ["remove", "rename", "nudge", "nudge", "wrap", "swap"]))
    if how == "remove":
        del section[last]
    elif how == "rename" and isinstance(section, dict):
        section[draw(st.sampled_from([f"{last}x", str(last).upper(), "", "kind", "\x00", "a.b"]))] = section.pop(last)
    elif how == "nudge" and isinstance(value, int | float) and not isinstance(value, bool):
        section[last] = draw(st.sampled_from([value + 1, value - 1, value * 2, value // 2, -value, value * 1.5]))
    elif how == "wrap":
        section[last] = draw(st.sampled_from([[value], {"kind": value}, str(value)]))
    elif how == "swap" and isinstance(section, dict):
        other = draw(st.sampled_from(list(section)))
        section[last], section[other] = section[other], section[last]
    else:
        section[last] = draw(st.sampled_from(HOSTILE))


@st.composite
def contents(draw: st.DrawFn, content: bytes, *, head: int = 512) -> bytes:
    """A file's bytes with a flipped bit, a cut, an insertion, a doubled part, zeros or noise; often near its head."""
    if not content:
        return draw(st.binary(max_size=64))
    near = st.integers(0, min(head, len(content)) - 1) | st.integers(0, len(content) - 1)
    at = draw(near)
    how = draw(st.sampled_from(["flip", "flip", "byte", "cut", "insert", "double", "zero", "empty", "noise", "tail"]))
    if how == "flip":
        return content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
    if how == "byte":
        return content[:at] + draw(st.sampled_from([b"\x00", b"\xff", b"\x7f", b"9", b'"', b"{"])) + content[at + 1 :]
    if how == "cut":
        return content[:at]
    if how == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at:]
    if how == "double":
        return content[:at] + content[at : at + 64] + content[at:]
    if how == "zero":
        count = draw(st.integers(1, 64))
        return content[:at] + bytes(len(content[at : at + count])) + content[at + count :]
    if how == "noise":
        return draw(st.binary(max_size=256))
    return b"" if how == "empty" else content + draw(st.binary(min_size=1, max_size=64))


@st.composite
def texts(draw: st.DrawFn, text: str) -> bytes:
    """A text file's bytes: as `contents`, or a line that is removed, doubled, moved or indented."""
    if draw(st.booleans()):
        return draw(contents(text.encode(), head=len(text)))
    lines = text.splitlines(keepends=True)
    at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    how = draw(st.sampled_from(["remove", "double", "move", "indent", "tab", "anchor", "tag", "deep"]))
    made = list(lines)
    if how == "remove":
        del made[at]
    elif how == "double":
        made.insert(other, lines[at])
    elif how == "move":
        made.insert(other, made.pop(at))
    elif how == "deep":
        made[at] = "x: " + "[" * 3000 + "\n"
    else:
        made[at] = {"indent": "   ", "tab": "\t", "anchor": "&a ", "tag": "!!python/object:os.system "}[how] + lines[at]
    return "".join(made).encode()


@st.composite
def safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file with another header that is well-formed JSON, or with other bytes anywhere."""
    size = int.from_bytes(content[:8], "little")
    if draw(st.booleans()):
        return draw(contents(content, head=8 + size))
    header = json.loads(content[8 : 8 + size])
    made = json.dumps(draw(trees(header))).encode()
    length = draw(st.sampled_from([len(made)] * 4 + [len(made) + 1, 0, 2**40, 2**63]))
    return length.to_bytes(8, "little") + made + content[8 + size :]


def argument(value: Any) -> str:
    """A value as somebody would type it; a shell passes no NUL."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\x00", "") or "''"


@st.composite
def arguments(draw: st.DrawFn, options: Mapping[str, Any]) -> list[str]:
    """One to three options with values, each a sensible one of `options` or a hostile one."""
    names = draw(st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=3, unique=True))
    made: list[str] = []
    for name in names:
        value = draw(st.sampled_from([options[name], *HOSTILE, *HOSTILE, "0-9999999999", "mps", "cuda", "-1", "1e300"]))
        made += [f"{name}={argument(value)}"] if name.startswith("--") else [argument(value)]
    return made
