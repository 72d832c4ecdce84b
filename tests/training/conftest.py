from __future__ import annotations

from pathlib import Path

import pytest

from dashdeploy.recipe.load import load_text


@pytest.fixture
def recipe_with(tiny_text: str, tiny_run: Path):
    """A function: overrides -> the tiny recipe with the ready teacher."""
    return lambda *overrides: load_text(tiny_text, name="t", overrides=[f"teacher.path={tiny_run}/teacher", *overrides])
