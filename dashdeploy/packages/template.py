"""Text templates of packages: {{name}} stands for a value."""

from __future__ import annotations

import re

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def fill(template: str, values: dict[str, str]) -> str:
    """The template with every placeholder replaced.

    Raises:
        KeyError: a placeholder without a value.
    """
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)
