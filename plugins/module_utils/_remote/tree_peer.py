# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The front-end as the peer of an operation on another host that sends or receives a tree."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

from .._core.errors import StaleState, TransferFailed
from .._core.locks import retry_until
from .._core.temporary import is_part_name
from .staging import Staging
from .tree import Source, Tree, digest_of
from .tree_exchange import LONGEST_TREE, Broken, confirm, receive_tree, send_tree

#: Upper bound of the time in which the process of an earlier connection ends, in seconds.
END_DEADLINE = 10

#: struct ucred of unix(7): pid, uid, gid.
CREDENTIALS = struct.Struct("3i")


class TreePeer:
    """The peer of one operation, for its handler. The handler calls :meth:`send` or :meth:`receive` once.

    :arg stdin, answers: the connection.
    :arg request: its fields ``transfer`` and ``received`` are used.
    """

    name = "front-end"

    def __init__(self, stdin: IO[bytes], answers: IO[bytes], request: Mapping[str, Any]) -> None:
        self._stdin = stdin
        self._answers = answers
        self._part = str(request["transfer"])
        if not is_part_name(self._part):
            raise ValueError("transfer")
        self._received = request.get("received")

    def send(self, source: Source) -> Tree | None:
        """Send a tree. Return when the peer has made it durable, so that the source can be removed.

        Return ``None`` if the peer received the tree over an earlier connection, and the source is removed already.

        :raises StaleState: the source changed after the peer received it.
        :raises VmstoreError: the tree could not be sent.
        """
        if self._received is not None and not source.exists():
            return None
        tree = source.describe()
        if self._received is None:
            send_tree(self, source, tree)
        elif self._received != digest_of(tree).hex():
            raise StaleState(f"{source.place} changed after its files were transferred; both copies are kept.")
        return tree

    def receive(
        self,
        directory: int,
        place: str,
        commit: Callable[[Staging], object] = Staging.publish,
        *,
        owner: tuple[int, int] | None = None,
        accept: Callable[[Tree], object] = bool,
    ) -> Tree:
        """Receive a tree, see :func:`.receive_tree`."""
        tree = receive_tree(self, directory, place, self._part, commit, owner=owner, accept=accept)
        confirm(self)
        return tree

    def read_message(self, _seconds: float = 0) -> Mapping[str, Any]:
        line = self._stdin.readline(LONGEST_TREE)
        if not line.endswith(b"\n"):
            raise self._gone()
        try:
            return dict(json.loads(line))
        except (RecursionError, TypeError, ValueError) as error:
            raise TransferFailed("The front-end sent a message that isn't one.") from error

    def read_into(self, buffer: memoryview) -> None:
        while buffer:
            length = self._stdin.readinto(buffer)  # type: ignore[attr-defined]  # a method of BufferedReader
            if not length:
                raise self._gone()
            buffer = buffer[length:]

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._answers.write(rest) :]
        except BrokenPipeError as error:
            raise self._gone() from error

    def _gone(self) -> Broken:
        return Broken("The front-end is gone.")


def open_peer(stdin: IO[bytes], answers: IO[bytes], request: Mapping[str, Any]) -> TreePeer:
    """Return the peer of the only operation of this process, see :func:`.serve.serve`.

    A host doesn't notice that a network is cut. So the process of an earlier connection of the same transfer can still
    wait for data, and hold locks. It is ended.

    :raises LockTimeout: the earlier process doesn't end.
    """
    peer = TreePeer(stdin, answers, request)
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address = b"\0granary.vmstore" + str(request["transfer"]).encode()  # abstract: there is no file (unix(7))

    def attempt() -> bool:
        try:
            mark.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _end_process(address)
            return False
        mark.listen(1)
        return True

    retry_until(attempt, deadline=END_DEADLINE, what="of an earlier connection of the transfer")
    mark.detach()  # later connections find this process by the socket until the process ends
    return peer


def _end_process(address: bytes) -> None:
    """End the process that listens at an address, if it is this user's."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        client.connect(address)
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        process, user, _group = CREDENTIALS.unpack(credentials)
        if user == os.geteuid() and process != os.getpid():
            os.kill(process, signal.SIGKILL)


__all__ = ["TreePeer", "open_peer"]
