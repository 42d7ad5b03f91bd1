# shellcheck shell=dash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
# Boots to one word on the console: whoever reads it knows that a kernel really runs.
/bin/busybox echo "lab: a kernel runs here"
/bin/busybox poweroff -f
