# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A FUSE file system that behaves like storage, and misbehaves on command."""
