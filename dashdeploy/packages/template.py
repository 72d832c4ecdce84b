"""The text files of packages: Jinja2 templates of exporters/<kind>/, in which every name must have a value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(templates: Path, name: str, values: Mapping[str, Any]) -> str:
    """A template of a folder, filled; it may include others of the same folder.

    Raises:
        jinja2.UndefinedError: it uses a name that has no value.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # these are Markdown, YAML and Python
    )
    return environment.get_template(name).render(values)
