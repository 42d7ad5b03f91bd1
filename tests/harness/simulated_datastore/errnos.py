# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Errors by their names."""

from __future__ import annotations

import difflib
import errno

from .errors import SimulatedDatastoreError


def number(option: str, name: object) -> int:
    """Return the number of an error like ``EIO``. Raises :class:`SimulatedDatastoreError` for an unknown name."""
    found = getattr(errno, name, None) if isinstance(name, str) and name.startswith("E") else None
    if not isinstance(found, int):
        near = difflib.get_close_matches(str(name).upper(), list(errno.errorcode.values()), 1)
        raise SimulatedDatastoreError(
            f"{option}: {name!r} isn't the name of an error like EIO or "
            f"ENOSPC{f' (did you mean {near[0]!r}?)' if near else ''}."
        )
    return found


def name(number: int) -> str:
    """Return the name of an error, or its number without a name."""
    return errno.errorcode.get(number, str(number))


__all__ = ["name", "number"]
