# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's side of a port: a unix socket with one client."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Upper bound of a wait in seconds. Only a failed test waits so long.
LONGEST_WAIT = 60


class Guest:
    """The guest behind a port. It sends and reads what the guest's programs do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(LONGEST_WAIT)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        """Accept the connection of the other side, in the place of the one before."""
        self.close()
        self.connection, _address = self.listener.accept()
        self.connection.settimeout(LONGEST_WAIT)

    def send(self, data: bytes) -> None:
        assert self.connection
        self.connection.sendall(data)

    def flood(self, data: bytes) -> int:
        """Send data until the other side takes no more, and return the number of bytes."""
        assert self.connection
        self.connection.setblocking(False)
        sent = 0
        try:
            while True:
                sent += self.connection.send(data)
        except BlockingIOError:
            return sent
        finally:
            self.connection.settimeout(LONGEST_WAIT)

    def read(self) -> bytes:
        """Return a reply."""
        assert self.connection
        reply = b""
        while not reply.endswith(b"\n\n"):
            data = self.connection.recv(1)
            assert data, "the other side closed the connection"
            reply += data
        return reply

    def read_available(self) -> bytes:
        """Return what has arrived."""
        assert self.connection
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1 << 20)
        except BlockingIOError:
            return b""
        finally:
            self.connection.settimeout(LONGEST_WAIT)

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    def end(self) -> None:
        """End QEMU."""
        self.close()
        self.listener.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def make_guest(tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """Return a function that starts a guest."""
    made: list[Guest] = []

    def make(name: str = "port") -> Guest:
        made.append(Guest(tmp_path / name))
        return made[-1]

    yield make
    for guest in made:
        guest.end()
