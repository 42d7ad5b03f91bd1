# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Program of a guest: write each number to a disk, past all caches, compare the disk with the number, and append the
number to a file of the host.
"""

from __future__ import annotations

import mmap
import os

SLOT, SLOTS = 4096, 256

written, found = mmap.mmap(-1, SLOT), mmap.mmap(-1, SLOT)
disk = os.open("/dev/vdb", os.O_RDWR | os.O_DIRECT | os.O_SYNC)
numbers = os.open("/mnt/numbers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
number = 0
while not os.path.exists("/run/stop"):
    number += 1
    written[:16] = b"%016d" % number
    os.pwritev(disk, [written], number % SLOTS * SLOT)
    os.preadv(disk, [found], number % SLOTS * SLOT)
    if found[:16] != written[:16]:
        os.write(numbers, b"the disk has %s\n" % found[:16])
    os.write(numbers, b"%d\n" % number)
