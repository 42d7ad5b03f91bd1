# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The errors of the simulated datastore."""

from __future__ import annotations


class SimulatedDatastoreError(Exception):
    """A sentence that names the option, the refused value, and the accepted values."""


class DaemonGone(SimulatedDatastoreError):
    """The daemon accepts no connection, or has ended."""


__all__ = ["DaemonGone", "SimulatedDatastoreError"]
