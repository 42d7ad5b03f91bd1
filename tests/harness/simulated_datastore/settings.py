# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The settings of a datastore, in one mapping: which method each of them belongs to."""
from __future__ import annotations

from typing import Any

from .client import Control
from .profiles import choose
from .values import size

_CAPACITY = ("size", "inodes", "max_file", "error_at", "quotas")
_SCHEDULE = ("latency", "jitter", "read", "write", "requests", "seed")
_STATE = ("state", "client", "delay", "error")
KEYS = (*_CAPACITY, *_SCHEDULE, *_STATE, "crash_tracking")


def apply(control: Control, settings: dict[str, Any]) -> None:
    """Put *settings* into force: limits one by one, a schedule and a state as a whole. Raises :class:`SimulatedDatastoreError`."""
    for key in settings:
        choose("set", key, KEYS)
    given = {key: size(value) if key in ("size", "max_file", "read", "write") else value for key, value in settings.items()}
    if isinstance(given.get("quotas"), list):
        given["quotas"] = [{**quota, "size": size(quota["size"])} if isinstance(quota, dict) and "size" in quota else quota for quota in given["quotas"]]
    for method, keys in (("resize", _CAPACITY), ("schedule.set", _SCHEDULE), ("state.set", _STATE)):
        if part := {key: given[key] for key in keys if key in given}:
            control.call(method, **part)
    if "crash_tracking" in given:
        control.call("crash.track", enabled=given["crash_tracking"])


__all__ = ["KEYS", "apply"]
