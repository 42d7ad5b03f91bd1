# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths from users: resolved, then compared by components with SAFE_DIRS and RESTRICTED_DIRS."""

from __future__ import annotations

import os

from .errors import InvalidInput, PathNotAllowed, os_errors
from .records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Upper bound of the length in bytes (PATH_MAX in linux/limits.h, less the NUL at the end).
LONGEST_PATH = 4095


def absolute(option: str, path: str) -> str:
    """Return ``path`` without repeated and trailing slashes.

    :raises InvalidInput: the path isn't absolute or isn't UTF-8, or has ``..``, NUL or control characters.
    """
    if not path.startswith("/"):
        raise InvalidInput(option, path, "an absolute path such as '/mnt/data' is expected")
    if not path.isprintable() and any(map(_is_unusable, path)):
        raise InvalidInput(option, path, "a path in UTF-8 without control characters is expected")
    if len(path.encode()) > LONGEST_PATH:
        raise InvalidInput(option, path, f"a path of at most {LONGEST_PATH} bytes is expected")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidInput(option, path, "a path without '..' is expected")
    return "/" + "/".join(parts)


def _is_unusable(character: str) -> bool:
    """Return whether the catalog or XML can't hold the path: it has control characters, bytes that aren't UTF-8 (as
    os.fsdecode converts them), or one of two characters that XML forbids.
    """
    return character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" or character in "\ufffe\uffff"


#: Characters of a URL's scheme beside letters and digits (RFC 3986, 3.1), for ``str.translate`` to leave out.
_PUNCTUATION = dict.fromkeys(map(ord, "+.-"))


def is_url(path: str) -> bool:
    """Return whether a path is a URL of any scheme."""
    scheme, separator, _rest = path.partition("://")
    return bool(separator) and scheme[:1].isalpha() and scheme.isascii() and scheme.translate(_PUNCTUATION).isalnum()


def real_path(path: str) -> str:
    """Return ``path`` without symbolic links, like os.path.realpath. Missing components are kept.

    :raises FileAccessFailed: a link can't be read, such as ``/proc/1/root`` without the right to trace that process
        (proc_pid_root(5)).
    """
    with os_errors(f"resolve the path {path}"):
        return os.path.realpath(path)


def is_within(path: str, directory: str) -> bool:
    """Return whether the resolved ``path`` is ``directory`` or below it, by components: ``/x/safe-evil`` isn't within
    ``/x/safe``.
    """
    return os.path.commonpath([path, directory]) == directory


def is_same_path(name: str, path: str) -> bool:
    """Return whether a name is the absolute path ``path``, apart from repeated slashes."""
    return name.startswith("/") and [part for part in name.split("/") if part] == path.split("/")[1:]


def check_allowed(
    option: str,
    path: str,
    *,
    safe: Sequence[str],
    restricted: Sequence[str],
    safe_option: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Refuse a resolved ``path`` that SAFE_DIRS and RESTRICTED_DIRS don't allow.

    A restricted directory and every ancestor of a restricted directory are refused. Below a restricted directory, a
    path is allowed only inside a safe directory that is the same or deeper, because the more specific of the two wins.
    Every other path is allowed. Both lists hold absolute paths, which are resolved here as well.

    :arg safe_option: the user's name for the safe directories, if the user can choose them.
    :arg names: other names of the same file. One name inside a safe directory is enough, and each can be restricted.
    :raises PathNotAllowed: naming the restricted directory; :raises FileAccessFailed: one of the lists can't be
        resolved.
    """
    safe_roots = [real_path(directory) for directory in safe]
    paths = (path, *names)
    covering = [len(root) for root in safe_roots if any(is_within(one, root) for one in paths)]
    # On another host, a link of this host may be a directory: both names are restricted.
    for root in sorted({*map(os.path.normpath, restricted), *map(real_path, restricted)}):
        if is_within(root, path):
            raise PathNotAllowed(option, path, f"it is or contains the restricted directory {root}")
        if any(is_within(one, root) for one in paths) and len(root) > max(covering, default=0):
            remedy = f" and {safe_option} names no directory in there that holds it" if safe_option else ""
            raise PathNotAllowed(option, path, f"it lies in the restricted directory {root}{remedy}")


__all__ = ["absolute", "check_allowed", "is_same_path", "is_url", "is_within", "real_path"]
