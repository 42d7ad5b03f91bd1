# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The output of an action: the result on standard output, and lines on standard error.

A front-end takes lines that begin with ``INFO: `` for its log. All other lines are the message for the user.
"""

from __future__ import annotations

import os

from ..._core.errors import from_os_error


def write_result(text: str) -> None:
    """Write the whole result to standard output.

    :raises VmstoreError: the result can't be written.
    """
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.write(text.encode())
    except OSError as error:
        raise from_os_error(error, "answer on standard output") from error


def log(text: str) -> None:
    write_line(f"INFO: {as_line(text)}")


def write_line(line: str) -> None:
    try:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    except OSError:
        return  # the action succeeded, even if nobody reads its log


def as_line(text: str) -> str:
    """Return ``text`` as one printable line."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.splitlines()))


__all__ = ["as_line", "log", "write_line", "write_result"]
