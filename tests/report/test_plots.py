"""The house style: deterministic SVG that stands in a page and as a file."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dashdeploy.report.plots import SERIES, on_white, panel, scale_y


def drawn(name: str, title: str = "Title") -> str:
    with panel(name, title) as (ax, finish):
        ax.plot([1, 2], [3, 4], color=SERIES[0], label="a line")
        return finish()


def test_a_panel_is_the_same_text_every_time_and_its_ids_begin_with_its_name() -> None:
    assert drawn("one") == drawn("one")
    ids = [{element.get("id") for element in ElementTree.fromstring(drawn(name)).iter()} - {None} for name in "ab"]
    assert ids[0] and not ids[0] & ids[1]
    assert all(str(i).startswith("a-") for i in ids[0])


def test_colours_are_css_variables_with_themselves_as_fallback() -> None:
    assert f"var(--series-0, {SERIES[0]})" in drawn("one")


def test_a_title_is_text_and_not_markup() -> None:
    svg = drawn("one", '<b> "quoted"')
    assert ElementTree.fromstring(svg).get("aria-label") == '<b> "quoted"'


def test_a_panel_as_a_file_is_on_white() -> None:
    assert ElementTree.fromstring(on_white(drawn("one"))).get("style") == "background: #ffffff"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 2, 14], "linear"), ([1, 2, 16], "log"), ([-1, 100], "linear"), ([float("nan"), 5], "linear"), ([], "linear")],
)
def test_a_wide_range_of_positive_values_has_a_logarithmic_axis(values: list[float], expected: str) -> None:
    with panel("scale", "") as (ax, _):
        ax.plot(values)
        assert scale_y(ax, values) == expected == ax.get_yscale()
