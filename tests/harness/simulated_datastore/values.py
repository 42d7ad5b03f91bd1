# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The values in words of the command line."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import SimulatedDatastoreError

_SIZE = re.compile(r"([0-9]+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(value: Any) -> Any:
    """Return the bytes of a text like ``10M`` (binary units); anything else unchanged."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1]) * _UNITS[match[2].upper()] if match else value


def parse_assignments(words: list[str]) -> dict[str, Any]:
    """Parse ``key=value`` words. A value is JSON or otherwise a text, a size is bytes, and dots in a key create
    mappings.

    Raises :class:`SimulatedDatastoreError`.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise SimulatedDatastoreError(f"{word!r} isn't of the form KEY=VALUE.")
        try:
            value = json.loads(text)
        except ValueError:
            value = size(text)
        target = found
        *outer, last = key.split(".")
        for name in outer:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise SimulatedDatastoreError(f"{word!r}: {name} has a value already.")
        target[last] = value
    return found


def format_amount(number: int, exact: bool) -> str:
    """Return the text of a number that may be very large, or an upper bound unless *exact*."""
    if number >= 10**12:
        return f"about 10^{len(str(number)) - 1}"
    return f"{number:,}" if exact else f"at most {number:,}"


__all__ = ["format_amount", "parse_assignments", "size"]
