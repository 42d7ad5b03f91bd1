# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rights of another user for a block of code.

Some work in a directory of another user can't be done by descriptors: SQLite opens the files of a database by name.
With the rights of that user, links in the directory lead root only to files that the user can write himself.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator

from .errors import os_errors
from .records import dataclass

#: Group of a user without an account (nogroup of Debian).
NO_GROUP = 65534


@dataclass(frozen=True)
class Identity:
    """A user with the groups of the user's account."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def owner_of(status: os.stat_result) -> Identity | None:
    """Return the owner of a directory; ``None`` if the owner is this process's user, or if this process isn't root's
    and can't change its user.
    """
    if os.geteuid() != 0 or status.st_uid == 0:
        return None
    try:
        return identity_of(pwd.getpwuid(status.st_uid))
    except KeyError:
        return Identity(status.st_uid, NO_GROUP)


def user_called(name: str) -> Identity | None:
    """Return the user of this name; ``None`` without an account."""
    try:
        return identity_of(pwd.getpwnam(name))
    except KeyError:
        return None


def identity_of(account: pwd.struct_passwd) -> Identity:
    """Return the user of an account."""
    return Identity(account.pw_uid, account.pw_gid, tuple(os.getgrouplist(account.pw_name, account.pw_gid)))


@contextlib.contextmanager
def acting_as(identity: Identity | None) -> Iterator[None]:
    """Set the effective user and groups to ``identity`` for the length of a block; ``None`` changes nothing.

    The real and the saved user stay root, so that the other user can neither trace nor signal the process
    (credentials(7)).

    :raises VmstoreError: this process may not change its user.
    """
    if identity is None:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    try:
        with os_errors(f"act as the user {identity.uid}"):
            os.setgroups(identity.groups)
            os.setegid(identity.gid)
            os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


__all__ = ["Identity", "acting_as", "identity_of", "owner_of", "user_called"]
