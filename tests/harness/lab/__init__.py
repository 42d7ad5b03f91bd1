# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Hosts and guests for tests: ``from lab import Lab, load_spec``."""

from __future__ import annotations

from .errors import LabError
from .running import Lab
from .spec import LabSpec, load_spec

__all__ = ["Lab", "LabError", "LabSpec", "load_spec"]
