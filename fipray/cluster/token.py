"""The token of a Ray session of our own, in a file that its owner alone may read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ray._private.authentication.authentication_token_generator import generate_new_authentication_token


def keep_token_private() -> None:
    """See that the token file of this user is there, and that nobody else can read it, before Ray starts.

    Ray makes the file readable to everybody on the machine. Where the token comes from elsewhere, none is made; where
    the home directory cannot be written, Ray says so itself.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError, RuntimeError):
        if file.exists():
            file.chmod(0o600)
        elif not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
            file.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(generate_new_authentication_token())
