# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The error of the lab."""

from __future__ import annotations


class LabError(Exception):
    """A sentence that names the refused value and the accepted ones, or the failed step and its reason."""


__all__ = ["LabError"]
