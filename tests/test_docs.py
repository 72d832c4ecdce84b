"""The front door: the README, the pages of docs/, and the site that they make."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from dashdeploy.cli.app import COMMANDS, main
from dashdeploy.packages.schema import Package
from dashdeploy.recipe.schema import Recipe
from dashdeploy.target import Target
from tests.scripts import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


schema_pages = load(ROOT / "tools" / "schema_pages.py")
rooms_diagram = load(ROOT / "tools" / "rooms_diagram.py")
pictures = load(ROOT / "benchmarks" / "side_by_side.py")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        parts = urlsplit(target)
        if parts.scheme:
            continue
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert file.exists(), target
        if parts.fragment:
            assert parts.fragment in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_recipe_that_a_page_shows_is_valid(page: Path, tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for i, example in enumerate(examples):
        (tmp_path / f"example-{i}.yaml").write_text(example)
    if examples:
        with pytest.raises(SystemExit) as stopped:
            main(["recipes", "validate", *map(str, sorted(tmp_path.iterdir()))])
        assert not stopped.value.code


def test_every_command_that_a_page_shows_exists() -> None:
    shown: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        code = [match[0] for match in FENCED.finditer(text)] + re.findall(r"`[^`\n]+`", FENCED.sub("", text))
        shown |= {name for piece in code for name in re.findall(r"^(?:`|\$ )?dashdeploy ([a-z]+)", piece, re.MULTILINE)}
    assert len(shown) > 8
    assert shown <= set(COMMANDS)


def test_the_python_that_the_pages_show_runs(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    blocks = [block for page in PAGES for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)]
    assert len(blocks) == 6
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block.replace("50", "4"), names)  # the tiny run's sampler has four steps
        images = names.get("images")
        if images is not None and "uint8" in str(images.dtype):
            assert images.shape == (10, 8, 8, 1)
        elif images is not None:
            assert images.shape[1:] == (1, 8, 8) and abs(images).max() <= 1


def test_every_page_is_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        paths = (urlsplit(target).path for target in LINK.findall(FENCED.sub("", page.read_text())))
        linked = ((page.parent / path).resolve() for path in paths if path.endswith(".md"))
        todo += [other for other in linked if other not in seen]
    included = {ROOT / "docs" / "index.md", ROOT / "docs" / "contributing.md"}  # the site's own home; CONTRIBUTING.md
    assert set(PAGES) - seen <= included


class Loaded(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.addresses.append(str(values["src"]))
        if tag == "link" and values.get("rel") != "canonical":
            self.addresses.append(str(values["href"]))


def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")} <= {
        page.name for page in tmp_path.glob("*.html")
    }
    for page in tmp_path.glob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        assert [address for address in loaded.addresses if urlsplit(address).netloc] == []
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text())


def test_the_pages_of_keys_are_fresh_and_name_every_key() -> None:
    assert schema_pages.main(["--check"]) == 0
    for page, model, least in (("recipe", Recipe, 80), ("target", Target, 40), ("package", Package, 10)):
        text = (ROOT / "docs" / f"{page}-keys.md").read_text()
        schema = model.model_json_schema()
        keys = [key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", {})]
        assert len(keys) > least
        assert [key for key in keys if f"`{key}" not in text] == []


def test_a_stale_page_of_keys_is_told_and_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe-keys.md").write_text("old")
    assert schema_pages.main(["--check", "--docs", str(tmp_path)]) == 1
    assert "recipe-keys.md is stale. Run: python tools/schema_pages.py" in capsys.readouterr().err
    assert (tmp_path / "recipe-keys.md").read_text() == "old"
    assert schema_pages.main(["--docs", str(tmp_path)]) == 0
    assert schema_pages.main(["--check", "--docs", str(tmp_path)]) == 0


def test_the_diagram_has_every_room_once() -> None:
    entries = {path.name.removesuffix(".py") for path in (ROOT / "dashdeploy").iterdir()}
    rooms = {name for name in entries if name.isidentifier() and not name.startswith("_")}
    drawn = [room for _, floor in rooms_diagram.FLOORS for room in floor] + [rooms_diagram.APART]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == rooms
    assert (ROOT / "docs" / "rooms.svg").read_text() == rooms_diagram.drawing()
    design = (ROOT / "docs" / "design.md").read_text()
    assert [floor for _, floor in rooms_diagram.FLOORS[:-1] for room in floor if f"`{room}`" not in design] == []


def test_the_readmes_picture_is_cut_from_the_picture_of_four_models_pixel_by_pixel() -> None:
    source = np.asarray(Image.open(ROOT / "docs" / "fashion-mnist-16-samples.png").convert("L"))
    picture = np.asarray(Image.open(ROOT / "docs" / "side-by-side.png").convert("L"))[pictures.LABEL :]
    panels = pictures.panels(source)
    assert len(panels) == 4
    shown = pictures.panels(picture)
    assert len(shown) == len(pictures.NAMES) == 3
    rows = pictures.ROWS * (pictures.CELL + 1) - 1
    for panel, index in zip(shown, pictures.NAMES, strict=True):
        assert np.array_equal(panel[:: pictures.SCALE, :: pictures.SCALE], panels[index][:rows])
