# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Checks of values that come from outside.

Each returns the value, or raises :class:`SimulatedDatastoreError` with a sentence that names the option.
"""

from __future__ import annotations

import os
import re
from typing import Any

from .errors import SimulatedDatastoreError

#: The largest whole number, as that of an off_t.
MOST = (1 << 63) - 1
#: The largest uid and gid; the one above stands for none (chown(2)).
MOST_ID = (1 << 32) - 2
#: How many states of a crash there are at most.
STATES = 10_000
#: The largest number of seconds, or of anything a second.
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
    """A *path* may have bytes that aren't UTF-8, the way os.fsdecode() gives them."""
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
    """Of a datastore or a client: it becomes a directory, or an option of the mount, so nothing in it may mean
    something there.
    """
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise SimulatedDatastoreError(
            f"{option}: {value!r} isn't a name of up to 41 letters, digits, '_', '.' and '-' that begins with a letter "
            "or digit."
        )
    return value


def crash(given: dict[str, Any]) -> dict[str, Any]:
    """The numbers and truth values among the parameters of a crash."""
    for option, most in (("seed", MOST), ("count", MOST), ("state", STATES - 1)):
        if given.get(option) is not None:
            whole(option, given[option], most=most)
    flag("restart", given.get("restart", False))
    return given


__all__ = ["MOST", "MOST_ID", "NAME", "STATES", "crash", "flag", "name", "number", "seconds", "text", "texts", "whole"]
