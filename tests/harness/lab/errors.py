# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The one error the lab raises for anything a user can meet."""

from __future__ import annotations


class LabError(Exception):
    """One sentence that names what was refused and what would be accepted."""


__all__ = ["LabError"]
