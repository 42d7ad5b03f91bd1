# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes and times as users write them."""

from __future__ import annotations

import re

from .errors import InvalidInput


def read_size(option: str, text: object) -> int:
    """Return a size in MiB. The unit is MiB, GiB (``G``) or TiB (``T``).

    :raises InvalidInput: the value is no size.
    """
    match = re.fullmatch(r"([0-9]{1,12})(?:([MGT])(?:i?B)?)?", str(text).strip())
    if match is None:
        raise InvalidInput(option, text, "a number of MiB is expected, or one with G or T, such as 10G")
    return int(match[1]) << {"M": 0, "G": 10, "T": 20}[match[2] or "M"]


def read_duration(option: str, text: object) -> int:
    """Return a time in seconds. The unit is seconds, minutes (``m``), hours (``h``), days (``d``) or weeks (``w``).

    :raises InvalidInput: the value is no time.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", str(text).strip())
    if match is None:
        raise InvalidInput(option, text, "a number of seconds is expected, or one with m, h, d or w, such as 7d")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


__all__ = ["read_duration", "read_size"]
