# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtiofsd that libvirt starts on this host: its program, and its abilities."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence

from ..._core.command import run
from ..._core.errors import DependencyNotFound, InvalidInput
from ..._core.files import read_text
from ..._core.paths import absolute
from ..._core.records import dataclass

#: The program that changes to the service user and runs virtiofsd; the role granary.vmstore.hypervisor installs it.
WRAPPER = "/usr/local/libexec/granary-virtiofsd"

#: Directories with descriptions of programs for vhost-user devices. A file in a later directory overrides a file with
#: the same name (QEMU: vhost-user.json).
DESCRIPTIONS = ("/usr/share/qemu/vhost-user", "/etc/qemu/vhost-user")

LOGS = "/var/log/libvirt/qemu"


@dataclass(frozen=True)
class Daemon:
    """A virtiofsd.

    :arg path: the program.
    :arg is_wrapper: whether the program is a script, which starts virtiofsd as a user other than root.
    """

    path: str
    is_wrapper: bool
    can_map: bool
    can_read_only: bool


def find_daemon(binary: str | None) -> Daemon:
    """Return the daemon ``binary`` or, without one, the daemon that libvirt chooses.

    The daemon's abilities are read from its ``--help``, because the C implementation and old releases lack options.

    :raises InvalidInput: ``binary`` isn't the absolute path of a program.
    :raises DependencyNotFound: this host has no virtiofsd.
    :raises CommandFailed: the program fails.
    """
    path = find_described_daemon() if binary is None else absolute("binary", binary)
    if path is None:
        raise DependencyNotFound(
            "There is no virtiofsd on this host: install the package virtiofsd (Debian 12: it is part of "
            "qemu-system-common)."
        )
    if not _is_program(path):
        raise InvalidInput("binary", path, "the path of an executable file on this host is expected")
    completed = run([path, "--help"], timeout=20)
    words = (completed.stdout + completed.stderr).split()
    return Daemon(path, _is_script(path), "--uid-map" in words, "--readonly" in words)


def default_binary() -> str | None:
    """Return the wrapper if it is installed; ``None`` leaves the choice to libvirt."""
    return WRAPPER if _is_program(WRAPPER) else None


def find_described_daemon(directories: Sequence[str] = DESCRIPTIONS) -> str | None:
    """Return the program that libvirt takes for a virtiofs device without ``<binary path>``: the first description by
    file name.
    """
    files = {
        os.path.basename(path): path
        for directory in directories
        for path in glob.glob(os.path.join(glob.escape(directory), "*.json"))
    }
    for name in sorted(files):
        try:
            description = json.loads(read_text(files[name]))
        except ValueError:
            continue
        if (
            isinstance(description, dict)
            and description.get("type") == "fs"
            and _is_program(str(description.get("binary")))
        ):
            return str(description["binary"])
    return None


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _is_script(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def last_words(domain: str, since: float, directory: str = LOGS) -> str | None:
    """Return the last line that a virtiofsd of ``domain`` logged after the time ``since`` (seconds since the epoch).

    If a daemon ends at once, libvirt reports a refused connection. Only the daemon's log has the reason.
    """
    logs = glob.glob(os.path.join(glob.escape(directory), f"{glob.escape(domain)}-fs*-virtiofsd.log"))
    recent = [path for path in logs if os.stat(path).st_mtime >= since]
    lines = read_text(max(recent, key=lambda path: os.stat(path).st_mtime)).strip().splitlines() if recent else []
    return lines[-1] if lines else None


__all__ = ["DESCRIPTIONS", "WRAPPER", "Daemon", "default_binary", "find_daemon", "find_described_daemon", "last_words"]
