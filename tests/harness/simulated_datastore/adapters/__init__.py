# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The adapters to the kernel: one per file, each with a record of its capabilities."""
