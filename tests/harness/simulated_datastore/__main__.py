# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""``python -m simulated_datastore``: the command line."""

from __future__ import annotations

from .cli import main

main()
