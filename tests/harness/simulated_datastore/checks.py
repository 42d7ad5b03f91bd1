# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Checks of external values.

Each check returns the value, or raises :class:`SimulatedDatastoreError` with a sentence that names the option.
"""

from __future__ import annotations

import os
import re
from typing import Any

from .errors import SimulatedDatastoreError

#: The largest whole number: the maximum of an off_t.
MOST = (1 << 63) - 1
#: The largest uid and gid; the next number means no change in chown(2).
MOST_ID = (1 << 32) - 2
#: Upper bound of the states of a crash.
STATES = 10_000
#: The largest number of seconds, or of anything per second.
_LONGEST = 1e15
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")


def whole(option: str, value: Any, least: int = 0, most: int = MOST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SimulatedDatastoreError(f"{option}: {value!r} isn't a whole number that is at least {least}.")
    if value > most:
        raise SimulatedDatastoreError(f"{option}: {value} is too much, at most {most} is accepted.")
    return value


def number(option: str, value: Any, what: str = "a number") -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _LONGEST:
        raise SimulatedDatastoreError(f"{option}: {value!r} isn't {what}, at least 0 and at most {_LONGEST:g}.")
    return float(value)


def seconds(option: str, value: Any) -> float:
    return number(option, value, "a number of seconds")


def flag(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SimulatedDatastoreError(f"{option}: {value!r} is neither true nor false.")
    return value


def text(option: str, value: Any, *, path: bool = False) -> str:
    """Return a text. A *path* may have bytes outside of UTF-8, in the form of os.fsdecode()."""
    try:
        good = (
            isinstance(value, str)
            and value != ""
            and "\0" not in value
            and (os.fsencode(value) if path else value.encode())
        )
    except UnicodeEncodeError:
        good = False
    if not good:
        raise SimulatedDatastoreError(
            f"{option}: {value!r} isn't a text of at least one character, in Unicode and without NUL."
        )
    return value


def texts(option: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise SimulatedDatastoreError(f"{option}: {value!r} isn't a list of texts.")
    return [text(option, each) for each in value]


def name(option: str, value: Any) -> str:
    """Return the name of a datastore or a client, which must be usable as a directory and as an option of the mount."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise SimulatedDatastoreError(
            f"{option}: {value!r} isn't a name of up to 41 letters, digits, '_', '.' and '-' that begins with a letter "
            "or digit."
        )
    return value


def crash(given: dict[str, Any]) -> dict[str, Any]:
    """Return the checked numbers and booleans among the parameters of a crash."""
    for option, most in (("seed", MOST), ("count", MOST), ("state", STATES - 1)):
        if given.get(option) is not None:
            whole(option, given[option], most=most)
    flag("restart", given.get("restart", False))
    return given


__all__ = ["MOST", "MOST_ID", "NAME", "STATES", "crash", "flag", "name", "number", "seconds", "text", "texts", "whole"]
