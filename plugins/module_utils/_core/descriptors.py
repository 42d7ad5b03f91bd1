# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The descriptors 0, 1 and 2 of a program that somebody else starts."""

from __future__ import annotations

import os


def open_standard_descriptors() -> None:
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed. Call this function before any file is
    opened.

    Otherwise the next file would get the number, and messages would be written to an image. Reading standard input and
    writing standard output still fail with EBADF, so that the caller notices.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the descriptor gets the lowest number that is free
            os.set_inheritable(number, True)


__all__ = ["open_standard_descriptors"]
