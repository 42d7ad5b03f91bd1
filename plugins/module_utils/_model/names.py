# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of datastores, images, domains and hosts: what users may call things."""

from __future__ import annotations

from .._core.errors import InvalidInput

#: Characters in a name (the column width of the front-ends that this collection works with).
LONGEST_NAME = 128


def check_name(option: str, name: str) -> str:
    """The name of a datastore or an image, as given.

    :raises InvalidInput: it is empty or too long, has a blank at an end, or holds a character that can't be printed
        (control characters, line separators, writing direction marks); or it is a number, which would be read as an id.
    """
    accepted = f"1 to {LONGEST_NAME} printable characters are expected, no blank at an end and not digits only"
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip() or name.isdigit():
        raise InvalidInput(option, name, accepted)
    return name


def check_domain(option: str, name: str) -> str:
    """The name of a libvirt domain, as given; libvirt takes no slash in it.

    :raises InvalidInput: as for :func:`check_name`, but a domain may be called by a number.
    """
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip() or "/" in name:
        raise InvalidInput(
            option, name, f"1 to {LONGEST_NAME} printable characters without '/' are expected, no blank at an end"
        )
    return name


def check_host(option: str, name: str) -> str:
    """The name or address of a host, as given. It never starts with a hyphen, so a command can't take it for an option.

    :raises InvalidInput: other characters than those of host names and IP addresses.
    """
    import re

    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,252}", name) is None:
        raise InvalidInput(option, name, "a host name or an IP address is expected")
    return name


__all__ = ["LONGEST_NAME", "check_domain", "check_host", "check_name"]
