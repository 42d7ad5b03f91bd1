# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Program of a host: compare the numbers that a guest wrote to a file of the host and to its disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile

SLOT, SLOTS = 4096, 256

path, disk, image_format = sys.argv[1:]
with open(path, encoding="ascii") as file:
    lines = file.read().splitlines()
lost = [number for number in range(1, len(lines) + 1) if lines[number - 1] != str(number)]
# The hosts compare the numbers of both guests at the same time.
with tempfile.NamedTemporaryFile(dir="/run") as file:
    subprocess.run(["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", disk, file.name], check=True)
    slots = [int(file.read(SLOT)[:16]) for _slot in range(SLOTS)]
stale = set(range(len(lines) - SLOTS + 1, len(lines) + 1)).difference(slots)
print(f"{len(lines)} numbers, {len(lost)} of them lost or reordered, {len(stale)} of the last {SLOTS} missing on the disk")
sys.exit(bool(lost or stale))
