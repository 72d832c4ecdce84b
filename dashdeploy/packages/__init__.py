"""The packages stage: an artifact with all that a C++ program, a Triton server or a page needs, by kind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dashdeploy.artifact import Backend, BatchRange, GraphName
    from dashdeploy.manifest import Manifest
    from dashdeploy.packages.schema import Package
    from dashdeploy.target import Profile


class Writer(Protocol):
    """One kind of package. `folder` is the artifact's, and `manifest` is its manifest."""

    def __init__(self, package: Package, templates: Path) -> None:
        """templates: the folder of exporters/ that its sources and text templates are in."""

    def fits(
        self, source: str, backend: Backend, graphs: Collection[GraphName], profiles: Sequence[Profile | BatchRange]
    ) -> None:
        """Refuse an artifact that this package cannot carry, by what its target or its manifest says of it.

        Args:
            source: what messages call it.
            profiles: of its engines; empty for a runtime without.

        Raises:
            UserError: it says which artifacts fit.
        """

    def write(self, destination: Path, folder: Path, manifest: Manifest) -> dict[str, Any]:
        """Write its files, the artifact's among them, into the empty `destination`; returns the stage's figures."""


PACKAGES: dict[str, str] = {
    "cpp": "dashdeploy.packages.cpp:CppWriter",
    "triton": "dashdeploy.packages.triton:TritonWriter",
    "web": "dashdeploy.packages.web:WebWriter",
}
"""Kind of package -> its `Writer`."""
