# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Profiles of an export: a local file system, or a network file system with its caches and its late errors."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from .errors import SimulatedDatastoreError


@dataclass(frozen=True)
class Profile:
    """A profile. Times are in seconds."""

    name: str
    #: Time for which the kernel may use cached names and attributes.
    timeout: float
    #: Users that become the anonymous user by default: none, root, all.
    squash: str
    #: Operation in which a lack of space is reported: write, close or fsync.
    error_at: str
    #: Support for ``user.*`` extended attributes.
    user_xattr: bool
    #: Each change invalidates the caches of all clients. Otherwise a client gets a change at its next open
    #: (close-to-open), or after the timeout.
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
    """Return an accepted *value*. Raises :class:`SimulatedDatastoreError` for another one, with the nearest accepted
    value.
    """
    if isinstance(value, str) and value in accepted:
        return value
    near = difflib.get_close_matches(str(value), accepted, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise SimulatedDatastoreError(f"{option}: {value!r} isn't one of {', '.join(accepted)}{hint}.")


__all__ = ["ERROR_AT", "PROFILES", "SQUASHES", "Profile", "choose"]
