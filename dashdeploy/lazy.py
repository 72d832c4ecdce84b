"""Optional packages, and what registries name, imported only when used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from dashdeploy.errors import UserError, unknown


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Args:
        module: dotted module name, e.g. ``"onnxruntime"``.
        extra: the extra of dashdeploy that installs it, e.g. ``"cpu"``.

    Raises:
        UserError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} is needed here and could not be imported ({error}). "
            f"Install it with: pip install 'dashdeploy[{extra}]'"
        ) from error


def resolve(kind: str, registry: dict[str, str], name: str, *, package: str | None = None) -> Any:
    """Look `name` up in a registry of ``"module:attribute"`` strings and import it.

    Args:
        package: the package of the registry's modules. None: the registry gives their full names.

    Raises:
        UserError: the name is not registered; the message lists those that are.
    """
    if name not in registry:
        raise unknown(kind, name, registry)
    place, _, attribute = registry[name].partition(":")
    module = place if package is None else f"{package}.{place}"
    return getattr(importlib.import_module(module), attribute)
