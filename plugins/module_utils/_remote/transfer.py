# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transfers of trees between this host and another one, which go on after a broken connection."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from .._core.errors import HostUnreachable, TransferFailed
from .._core.part_directory import remove_unheld_directory
from .._core.records import dataclass, replace
from .._core.temporary import new_part_name
from .ssh import fast_cipher
from .staging import Staging
from .tree import Source, Tree, digest_of
from .tree_exchange import Broken, confirm, receive_tree, send_tree
from .tree_session import TreeSession
from .tree_stream import SEGMENT
from .wire import Operation

#: Seconds before each new connection after a broken one. A connection that has moved :data:`PROGRESS` bytes starts them
#: again.
PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
PROGRESS = SEGMENT

#: Data in bytes from which on the choice of a cipher pays.
BULK = 16 << 20

#: Upper bound of the connections of one transfer.
MOST_CONNECTIONS = 100


@dataclass(frozen=True)
class Route:
    """The way to another host.

    :arg kind: the role of the host in messages.
    :arg module: the module that the host runs, see :func:`.command_for`.
    :arg options: further options of ssh(1). The default for much data is :func:`.fast_cipher`.
    """

    host: str
    module: str
    log: Callable[[str], object]
    kind: str = "host"
    options: tuple[str, ...] = ()

    def connect(self) -> TreeSession:
        return TreeSession(self.host, kind=self.kind, module=self.module, log=self.log, options=self.options)

    def for_bulk(self) -> Route:
        """Return the route with options for much data."""
        return self if self.options else replace(self, options=fast_cipher(self.host))


def push_tree(
    route: Route,
    action: str,
    operation: Operation,
    request: Mapping[str, object],
    source: Source,
    *,
    kinds: Mapping[str, type],
) -> Any:
    """Run an operation that receives a tree (:meth:`.TreePeer.receive`), and return its result.

    :arg request: further fields of the request, see :data:`.serve.Request`.
    :arg kinds: the dataclasses that the result may contain, by name.
    :raises NotFound, Conflict: the source can't be transferred; nothing was sent.
    :raises TransferFailed: the connection broke, and new ones did not help. The host keeps its old data.
    :raises VmstoreError: the error of the operation.
    """
    tree = source.describe()

    def attempt(session: TreeSession, fields: Mapping[str, object]) -> Any:
        session.begin(action, {**request, **fields})
        send_tree(session, source, tree)
        return session.read_result(operation, kinds)

    is_bulk = sum(entry.data for entry in tree) >= BULK
    return _Transfer(route.for_bulk() if is_bulk else route, action).run(attempt)


def pull_tree(
    route: Route,
    action: str,
    operation: Operation,
    request: Mapping[str, object],
    directory: int,
    commit: Callable[[Staging], object] = Staging.publish,
    *,
    kinds: Mapping[str, type],
    owner: tuple[int, int] | None = None,
    accept: Callable[[Tree], object] = bool,
) -> Any:
    """Run an operation that sends a tree (:meth:`.TreePeer.send`), and return its result.

    :arg request, kinds: see :func:`push_tree`.
    :arg directory: descriptor of the directory that gets the tree.
    :arg commit: gives the complete and durable tree its final names. The host removes its source only afterwards.
    :arg owner: uid and gid of the files.
    :arg accept: raises if the tree must not be received, before any data arrives.
    :raises TransferFailed: the connection broke, and new ones did not help.
    :raises VmstoreError: the error of the operation, or the data can't be stored.
    """
    transfer = _Transfer(route.for_bulk(), action)
    place = os.readlink(f"/proc/self/fd/{directory}")
    received: list[Tree] = []

    def attempt(session: TreeSession, fields: Mapping[str, object]) -> Any:
        known = digest_of(received[0]).hex() if received else None
        session.begin(action, {**request, **fields, "received": known})
        if not received:
            tree = receive_tree(session, directory, place, transfer.part, commit, owner=owner, accept=accept)
            received.append(tree)
            confirm(session)
        return session.read_result(operation, kinds)

    try:
        return transfer.run(attempt)
    finally:
        transfer.discard(directory)


class _Transfer:
    """The connections of one transfer.

    :ivar part: the name of the part directory of the receiver, by which a new connection finds what has arrived.
    """

    def __init__(self, route: Route, action: str) -> None:
        self._route = route
        self._action = action
        self.part = new_part_name()

    def run(self, attempt: Callable[[TreeSession, Mapping[str, object]], Any]) -> Any:
        """Return the result of ``attempt``, which gets a session and fields of the request.

        :raises HostUnreachable: the host can't be used; :raises TransferFailed: the connection broke too often.
        """
        pauses = iter(PAUSES)
        for number in range(MOST_CONNECTIONS):
            try:
                with self._route.connect() as session:
                    self._require_ready(session, is_first=number == 0)
                    return attempt(session, {"size": None, "transfer": self.part})
            except Broken as error:
                if session.moved >= PROGRESS:
                    pauses = iter(PAUSES)
                pause = next(pauses, None)
                if pause is None:
                    raise TransferFailed(str(error)) from error
                self._route.log(f"{str(error).rstrip('.')}; a new connection goes on with the transfer")
                time.sleep(pause)
        raise TransferFailed(
            f"The connection to the {self._route.kind} {self._route.host} broke {MOST_CONNECTIONS} times during "
            f"{self._action}."
        )

    def _require_ready(self, session: TreeSession, *, is_first: bool) -> None:
        refusal = session.handshake()
        if refusal is None:
            return
        message = f"{self._action} needs the {session.name}, which can't be used: {refusal}."
        raise HostUnreachable(message) if is_first else Broken(message)

    def discard(self, directory: int) -> None:
        """Remove what arrived in a directory over connections that broke."""
        with contextlib.suppress(OSError):
            remove_unheld_directory(directory, self.part)


__all__ = ["Route", "pull_tree", "push_tree"]
