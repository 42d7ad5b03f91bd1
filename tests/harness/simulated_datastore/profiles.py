# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""How an export reaches its clients: as a local file system, or as a network one with its caches and its late
errors.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from .errors import SimulatedDatastoreError


@dataclass(frozen=True)
class Profile:
    """Times are in seconds."""

    name: str
    #: How long the kernel may trust names and attributes.
    timeout: float
    #: Which users become the anonymous one, unless the export says otherwise: none, root, all.
    squash: str
    #: Where a lack of space is reported: write, close or fsync.
    error_at: str
    #: Whether ``user.*`` extended attributes exist.
    user_xattr: bool
    #: Whether caches of all clients are told of each change; else a client learns of it at its next open
    #: (close-to-open), or when its time is over.
    coherent: bool


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("local", timeout=60, squash="none", error_at="write", user_xattr=True, coherent=True),
        Profile("nfs3", timeout=3, squash="root", error_at="close", user_xattr=False, coherent=False),
        Profile("nfs4.2", timeout=3, squash="root", error_at="close", user_xattr=True, coherent=False),
    )
}
SQUASHES = ("none", "root", "all")
ERROR_AT = ("write", "close", "fsync")


def choose(option: str, value: object, accepted: list[str] | tuple[str, ...]) -> str:
    """*value* if it is accepted; else raises :class:`SimulatedDatastoreError` that names the nearest accepted one."""
    if isinstance(value, str) and value in accepted:
        return value
    near = difflib.get_close_matches(str(value), accepted, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise SimulatedDatastoreError(f"{option}: {value!r} isn't one of {', '.join(accepted)}{hint}.")


__all__ = ["ERROR_AT", "PROFILES", "SQUASHES", "Profile", "choose"]
