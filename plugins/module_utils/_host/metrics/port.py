# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection to the virtio-serial port of one domain. QEMU listens on a socket, and this host connects to it.

The guest decides what arrives and when replies are read. So nothing here waits, and a guest causes a bounded number of
steps in a second, however fast it writes.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable

from ..._core.directory import descriptor_path, opened_parent
from ..._core.errors import VmstoreError
from .request import END, INVALID, RequestBuffer

#: Number of attempts to connect, and the time after the first one in seconds. It doubles with each further attempt.
ATTEMPTS = 6
FIRST_RETRY = 1.0

#: Errors of a QEMU that doesn't listen yet, or still has another client.
RETRIED = (errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN)

#: Time between two requests in seconds.
REQUEST_INTERVAL = 1.0

#: Time until the rest of an incomplete request is read, in seconds. A guest that sends single bytes costs no more than
#: two steps in a second.
REST_INTERVAL = 0.5

#: Size of the socket's buffer for replies in bytes. A guest that never reads fills no more of the host's memory.
BUFFER = 16384

#: A time that never comes.
NEVER = float("inf")


class Port:
    """The state of the connection. The caller waits for the socket and for the time ``due``, and calls :meth:`act`.

    :arg path: path of QEMU's socket.
    :arg document: returns the current metrics.
    :arg log: gets a line.
    """

    def __init__(self, path: str, document: Callable[[], bytes], log: Callable[[str], object]) -> None:
        self.path = path
        self.socket: socket.socket | None = None
        #: The time of the next step that no event of the socket brings.
        self.due = 0.0
        self._document = document
        self._log = log
        self._attempts = 0
        self._received = RequestBuffer()
        self._reply = b""

    @property
    def is_writing(self) -> bool:
        """Return whether the port waits until the socket takes more of a reply."""
        return bool(self._reply)

    @property
    def is_reading(self) -> bool:
        """Return whether the port waits for data."""
        return self.socket is not None and not self._reply and self.due == NEVER

    def act(self, now: float) -> None:
        """Do what can be done without waiting.

        :arg now: the time in seconds, on the same clock as ``due``.
        """
        if self.socket is None:
            self._connect(now)
            return
        if now >= self.due:
            self.due = NEVER
        try:
            if self._reply:
                self._send(self.socket)
            if self.is_reading:
                self._receive(self.socket, now)
        except BlockingIOError:
            pass
        except OSError:
            self._lose(now)

    def close(self) -> None:
        """Close the connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        self.due = NEVER
        self._received.clear()
        self._reply = b""

    def _connect(self, now: float) -> None:
        try:
            self.socket = connect(self.path)
            self.due = NEVER
        except OSError as error:
            if error.errno in RETRIED:
                self._retry(now, error.strerror)
            else:
                self._give_up(error.strerror)
        except VmstoreError as error:
            self._give_up(str(error))

    def _lose(self, now: float) -> None:
        """Prepare another connection. The number of attempts starts anew only after a connection with data."""
        self.close()
        self._retry(now, "QEMU closed the connection")

    def _retry(self, now: float, reason: str | None) -> None:
        self._attempts += 1
        if self._attempts >= ATTEMPTS:
            self._give_up(reason)
        else:
            self.due = now + FIRST_RETRY * 2 ** (self._attempts - 1)

    def _give_up(self, reason: str | None) -> None:
        self.due = NEVER
        self._log(f"The port {self.path} gets no metrics until its domain starts again: {reason}.")

    def _receive(self, connection: socket.socket, now: float) -> None:
        is_valid = self._received.take()
        if is_valid is None:
            data = connection.recv(self._received.room)
            if not data:
                raise ConnectionResetError
            self._attempts = 0
            self._received.add(data)
            is_valid = self._received.take()
        if is_valid is None:
            self.due = now + REST_INTERVAL
            return
        self._reply = self._document() + END if is_valid else INVALID
        self.due = now + REQUEST_INTERVAL
        self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        self._reply = self._reply[connection.send(self._reply, socket.MSG_NOSIGNAL) :]


def connect(path: str) -> socket.socket:
    """Return a connection to a socket in a directory of another user. Links to sockets of third users aren't followed.

    :raises PathNotAllowed: a link of another user leads to a directory that isn't that user's. :raises OSError: the
        socket is missing, or nobody listens there.
    """
    with opened_parent(path) as (directory, name):
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISSOCK(os.fstat(found).st_mode):
                raise OSError(errno.EINVAL, "it is not a socket")
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                # The path of the descriptor has any length, unlike a path in an address (unix(7)).
                connection.connect(descriptor_path(found))
            except BaseException:
                connection.close()
                raise
            return connection
        finally:
            os.close(found)


__all__ = ["ATTEMPTS", "NEVER", "REQUEST_INTERVAL", "REST_INTERVAL", "Port", "connect"]
