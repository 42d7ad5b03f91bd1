# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Anything a user can meet is one error."""

from __future__ import annotations


class SimulatedDatastoreError(Exception):
    """One sentence that names what was refused, the value, and what would be accepted."""


class DaemonGone(SimulatedDatastoreError):
    """No daemon answers, or not any more."""


__all__ = ["DaemonGone", "SimulatedDatastoreError"]
