# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mount that only a child process sees, to find out what a mount would bring before anything is changed."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..._core.deadline import run_with_deadline
from ..._core.errors import CommandFailed, TimedOut, VmstoreError
from . import live
from .file_system import FileSystemType
from .mountinfo import Mount, read_mounts, visible

Answer = TypeVar("Answer")

#: Constants of unshare(2) and mount(2).
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000

#: Directories that every system has and that mount(8) doesn't need. The child covers one of them in its namespace.
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/home", "/sys")


def try_mount(
    seconds: float,
    file_system: FileSystemType,
    source: str,
    path: str,
    settings: Mapping[str, str],
    look: Callable[[str], Answer],
) -> Answer:
    """Mount ``source`` in a mount namespace of its own, and return the result of ``look``, which gets the mount point.

    The mount ends with the call. The mount table of the host never has it.

    :arg path: the mount point that messages name. The namespace has another one, because ``path`` may be missing.
    :raises VmstoreError: the mount failed, as :func:`live.mount_with_deadline` raises it, or ``look`` did.
    """

    def attempt() -> Answer:
        _unshare()
        place = _find_place(read_mounts())
        try:
            live.mount(file_system, source, place, file_system.for_trial(settings))
            return look(place)
        except VmstoreError as error:
            # A source may have the same words after a colon or a slash.
            error.args = (re.sub(rf"(?<![\w:/]){place}(?!\w)", lambda _found: path, str(error)),)
            raise

    try:
        return run_with_deadline(seconds, f"Mounting {source}", attempt)
    except TimedOut as error:
        raise file_system.explain(error, source, path) from error


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise CommandFailed(f"No mount can be tried on this host: {os.strerror(ctypes.get_errno())}.")


def _find_place(mounts: Sequence[Mount]) -> str:
    """Return a directory on a file system of this host. Any other could hang."""
    for place in _PLACES:
        on = visible(mounts, place)
        if len(on) <= 1 and os.path.isdir(place) and not os.path.islink(place):
            return place
    return "/sys"


__all__ = ["try_mount"]
