"""`dashdeploy keygen`: a pair of keys to sign artifacts with and to check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.output import Result, lines


def keygen(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="Writes NAME.key (secret) and NAME.pub.")],
) -> Result:
    """Make a key pair in minisign's format. The secret key has no password: who can read the file can sign."""
    from dashdeploy import signing

    secret, public = signing.make_key_pair(name)
    return lines(
        {"secret": secret, "public": public},
        f"{secret}  secret: dashdeploy export RUN --to TARGET --sign {secret}",
        f"{public}  public: dashdeploy verify FOLDER --key {public}",
    )
