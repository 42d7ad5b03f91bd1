# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The command line: ``python -m simulated_datastore``."""

from __future__ import annotations

from .cli import main

main()
