# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The settings of a datastore in one mapping, and the method of each."""

from __future__ import annotations

from typing import Any

from . import checks, errnos, schema
from .client import Control
from .errors import SimulatedDatastoreError
from .profiles import choose
from .values import size

_CAPACITY = ("size", "inodes", "max_file", "error_at", "quotas")
_SCHEDULE = ("latency", "jitter", "read", "write", "requests", "seed")
_STATE = ("state", "client", "delay", "error")
KEYS = (*_CAPACITY, *_SCHEDULE, *_STATE, "crash_tracking")


def apply(control: Control, settings: dict[str, Any]) -> None:
    """Put *settings* into force. Other settings stay, also latencies of other operations. A state is set as a whole.

    Raises :class:`SimulatedDatastoreError`.
    """
    for key in settings:
        choose("set", key, KEYS)
    given = {key: _convert_sizes(key, value) for key, value in settings.items()}
    # State and delay are set last, but checked here, so that an error leaves the other settings unchanged.
    _check_state(given)
    checks.flag("crash_tracking", given.get("crash_tracking", True))
    if given.keys() & set(_SCHEDULE):
        given = {**given, **_schedule(control.call("status")["schedule"], given)}
    for method, keys in (("resize", _CAPACITY), ("schedule.set", _SCHEDULE), ("state.set", _STATE)):
        if part := {key: given[key] for key in keys if key in given}:
            control.call(method, **part)
    if "crash_tracking" in given:
        control.call("crash.track", enabled=given["crash_tracking"])


def _convert_sizes(key: str, value: Any) -> Any:
    """Return the value of a setting with its sizes in bytes."""
    if key in ("size", "max_file", "read", "write"):
        return size(value)
    if key == "quotas" and isinstance(value, list):
        return [
            {**quota, "size": size(quota["size"])} if isinstance(quota, dict) and "size" in quota else quota
            for quota in value
        ]
    return value


def _check_state(given: dict[str, Any]) -> None:
    for key in _STATE[1:]:
        if key in given and "state" not in given:
            raise SimulatedDatastoreError(f"{key}: this option belongs to a state, give state= as well.")
    schema.check({key: given[key] for key in ("state", "delay") if key in given}, {"$ref": "#/$defs/settings"}, "set")
    if "error" in given:
        errnos.number("error", given["error"])


def _schedule(now: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the whole schedule with the *given* values; None removes a latency."""
    latency = given.get("latency", {})
    if isinstance(latency, dict):
        latency = {op: value for op, value in {**now["latency"], **latency}.items() if value is not None}
    return {**now, **{key: given[key] for key in _SCHEDULE if key in given}, "latency": latency}


__all__ = ["KEYS", "apply"]
