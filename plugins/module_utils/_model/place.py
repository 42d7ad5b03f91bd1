# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The argument ``host:/path`` of a transfer action (spec: storage-driver, "Transfer Manager Drivers")."""

from __future__ import annotations

from .._core.errors import InvalidInput
from .._core.paths import absolute
from .._core.records import dataclass
from .names import check_host


@dataclass(frozen=True)
class Place:
    """A file or directory of a host."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"


def parse_place(option: str, text: str) -> Place:
    """Return the place that an argument names. Repeated slashes in the path are removed.

    :arg option: the argument's name, for the error.
    :raises InvalidInput: the argument isn't a host, a colon and an absolute path. An IPv6 address has brackets.
    """
    host, separator, path = text.partition("]:" if text.startswith("[") else ":")
    if not separator or not path.startswith("/"):
        raise InvalidInput(option, text, "a host and an absolute path are expected, such as 'host1:/srv/disk.0'")
    return Place(check_host(option, host.lstrip("[")), absolute(option, path))


__all__ = ["Place", "parse_place"]
