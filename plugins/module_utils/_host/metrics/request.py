# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The requests of a guest on the virtio-serial port, in the grammar of vhostmd(8): ``GET /metrics/XML`` and an empty
line.

The guest is untrusted. The memory for its data has an upper bound, and so has the number of its requests in a second.
"""

from __future__ import annotations

#: The request line. No other is valid.
REQUEST = b"GET /metrics/XML"

#: Upper bound of a request in bytes, as in vhostmd(8).
LONGEST = 512

#: The reply to an invalid request.
INVALID = b"INVALID REQUEST\n\n"

#: The end of each reply.
END = b"\n\n"


class RequestBuffer:
    """The received bytes of a port that aren't a whole request yet."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def room(self) -> int:
        """Return the number of bytes that can be added."""
        return LONGEST - len(self._data)

    def add(self, data: bytes) -> None:
        """Add at most :attr:`room` bytes."""
        self._data += data

    def clear(self) -> None:
        """Drop all data."""
        self._data = b""

    def take(self) -> bool | None:
        """Remove a request from the data, and return whether it is valid; ``None`` without a whole request.

        A request without an empty line is invalid. All data is dropped then, because nobody knows where the next
        request begins.
        """
        line, _end, rest = self._data.partition(b"\n")
        empty, is_ended, rest = rest.partition(b"\n")
        if is_ended and empty in (b"", b"\r"):
            self._data = rest
            return line.removesuffix(b"\r") == REQUEST
        if is_ended or not self.room:
            self.clear()
            return False
        return None


__all__ = ["END", "INVALID", "LONGEST", "RequestBuffer"]
