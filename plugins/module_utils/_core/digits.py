# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests whether a text consists of digits, without loading ``re``."""

from __future__ import annotations


def is_decimal(text: str, longest: int | None = None) -> bool:
    """Return whether a text is decimal digits of ASCII, one or more and at most ``longest``."""
    return text.isascii() and text.isdigit() and (longest is None or len(text) <= longest)


def is_hexadecimal(text: str, length: int) -> bool:
    """Return whether a text is so many hexadecimal digits, in lower case."""
    return len(text) == length and not text.strip("0123456789abcdef")


__all__ = ["is_decimal", "is_hexadecimal"]
