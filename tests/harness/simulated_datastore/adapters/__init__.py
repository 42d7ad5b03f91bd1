# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The ways to the kernel: one adapter a file, each with a record of what it can do."""
