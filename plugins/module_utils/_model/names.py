# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names that users can give to datastores, images, domains and hosts."""

from __future__ import annotations

from .._core.errors import InvalidInput

#: Upper bound of the characters in a name (the column width of the front-ends that this collection works with).
LONGEST_NAME = 128


def check_name(option: str, name: str) -> str:
    """Return the name of a datastore or an image after a check.

    :raises InvalidInput: the name is empty or too long, has a blank at an end, or holds a character that can't be
        printed (control characters, line separators, writing direction marks); or the name is a number, which is
        reserved for ids.
    """
    accepted = f"1 to {LONGEST_NAME} printable characters are expected, no blank at an end and not digits only"
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip() or name.isdigit():
        raise InvalidInput(option, name, accepted)
    return name


def check_domain(option: str, name: str) -> str:
    """Return the name of a libvirt domain after a check. libvirt allows no slash in the name.

    :raises InvalidInput: as for :func:`check_name`, but the name of a domain can be a number.
    """
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip() or "/" in name:
        raise InvalidInput(
            option, name, f"1 to {LONGEST_NAME} printable characters without '/' are expected, no blank at an end"
        )
    return name


def check_host(option: str, name: str) -> str:
    """Return the name or address of a host after a check. It has no leading hyphen, because a command would parse it as
    an option.

    :raises InvalidInput: the value has characters that host names and IP addresses never have.
    """
    import re

    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,252}", name) is None:
        raise InvalidInput(option, name, "a host name or an IP address is expected")
    return name


__all__ = ["LONGEST_NAME", "check_domain", "check_host", "check_name"]
