# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The front-end's own scripts that the drivers replace, kept for a later restoration.

They are outside of the remotes, because a front-end copies all files in the remotes to every host. They are not
executable, and only root can change their directory.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence

from ..._core.directory import is_link_at, is_writable_for_others, sync_opened
from ..._core.errors import InvalidInput, os_errors
from ..._core.files import write_atomic
from ..._core.identity import acting_as, owner_of
from ..._host.made_directory import open_or_make

#: A line of every script of this collection, of any version. Such a script needs no keeping.
MARK = "# Installed by granary.vmstore.opennebula_drivers."

#: Upper bound of a script in bytes.
LONGEST_SCRIPT = 1 << 20

DATE = ".%Y-%m-%d@%H:%M:%S~"

#: The name of a script that an older version kept beside ours: the action, perhaps the number of a process, the date.
OLDER = r"(?P<action>[a-z_]+)(\.[0-9]+)?(?P<date>\.[0-9]{4}-[0-9]{2}-[0-9]{2}@[0-9]{2}:[0-9]{2}:[0-9]{2}~)"


class KeptScripts:
    """The kept scripts of one driver.

    :arg kept: directory of the kept scripts of all drivers. Each is there under the path that it had.
    :arg driver: path of the driver's directory in the remotes.
    """

    def __init__(self, kept: str, driver: str) -> None:
        self.directory = f"{kept}{driver}"

    def keep(self, opened: int, action: str) -> None:
        """Keep the script of an action under a name with the date.

        :arg opened: descriptor of the driver's directory.
        :raises InvalidInput: the file is too long for a script.
        :raises NoSpace, FileAccessFailed: the script can't be read or written.
        """
        self._keep(opened, action, action + time.strftime(DATE))

    def move(self, opened: int, names: Sequence[str]) -> None:
        """Move the files that :func:`find_older` returns out of the driver's directory.

        :raises InvalidInput: a file is too long for a script.
        :raises NoSpace, FileAccessFailed: a script can't be read or written.
        """
        for name in names:
            found = re.fullmatch(OLDER, name)
            self._keep(opened, name, f"{found['action']}{found['date']}" if found else name)
            with os_errors(f"remove {name}"):
                os.unlink(name, dir_fd=opened)
                sync_opened(opened)

    def _keep(self, opened: int, name: str, kept: str) -> None:
        with os_errors(f"keep the script {name} in {self.directory}"):
            script = _read(opened, name)
            if script is None or MARK.encode() in script:
                return
            os.close(open_or_make(self.directory, 0o700))
            write_atomic(f"{self.directory}/{kept}", script, mode=0o600)


def find_older(names: Sequence[str], actions: Sequence[str]) -> list[str]:
    """Return the names of scripts that an older version kept in the driver's directory."""
    matches = (re.fullmatch(OLDER, name) for name in sorted(names))
    return [found[0] for found in matches if found and found["action"] in actions]


def _read(opened: int, name: str) -> bytes | None:
    """Return the script that the owner of the directory runs under this name; ``None`` where there is no script.

    The script is read with the rights of that owner, who could have put a link to a secret there. In a directory of
    root that others can write to, links aren't followed.
    """
    around = os.fstat(opened)
    owner = owner_of(around)
    flags = os.O_NOFOLLOW if owner is None and is_writable_for_others(around) else 0
    with acting_as(owner):
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags, dir_fd=opened)
        except FileNotFoundError:
            return None
        except OSError:
            if is_link_at(opened, name):
                return None
            raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        script = file.read(LONGEST_SCRIPT + 1)
    if len(script) > LONGEST_SCRIPT:
        raise InvalidInput(
            "remotes", name, f"a script of at most {LONGEST_SCRIPT} bytes is expected in its place; move it elsewhere"
        )
    return script


__all__ = ["MARK", "KeptScripts", "find_older"]
