# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exchange of a tree between two peers over one connection.

The sender sends the description of the tree. The receiver answers the position from which it needs data: behind what
it has of an earlier connection. The sender sends the data, and the receiver answers when all of it is verified, on the
disk and under its final name. Then the sender may remove its tree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .._core.errors import TransferFailed, VmstoreError, os_errors, printable
from .._core.plain import Mismatch, read_plain
from .staging import Position, Staging, open_staging
from .tree import BadTree, Entry, Source, Tree, check_tree, digest_of
from .tree_stream import receive_data, send_data, send_failure
from .wire import encode

#: Upper bound of a line with the description of a tree in bytes.
LONGEST_TREE = 64 << 20


#: Upper bound of the time in which the receiver discards its data after an error of the sender, in seconds.
FAREWELL = 30.0

#: Upper bound of the time between two messages in seconds: a week, because a disk may be slow.
LONGEST_ACTION = 7 * 86400.0


class Broken(TransferFailed):
    """The connection to the peer broke. What arrived stays, and the next connection goes on from there."""


class Peer(Protocol):
    """The other side of a connection. All methods raise :class:`Broken`."""

    @property
    def name(self) -> str:
        """Return its name for messages."""

    def read_message(self, seconds: float = LONGEST_ACTION) -> Mapping[str, Any]:
        """Return the next line of the peer. An error in it is raised."""

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer."""

    def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``."""


def send_tree(peer: Peer, source: Source, tree: Tree) -> None:
    """Send a tree, and return when the peer has made it durable.

    :raises Broken: the connection broke; :raises VmstoreError: a file changed or can't be read, or the peer refused.
    """
    peer.write(encode({"tree": tree}, has_kinds=False))
    position = _read_position(peer, tree)
    try:
        with os_errors(f"read files in {source.place}"):
            send_data(source, tree, position, peer.write)
    except Broken:
        raise
    except VmstoreError as error:
        with contextlib.suppress(VmstoreError):
            send_failure(error, peer.write)
            peer.read_message(FAREWELL)  # the end of the connection would come before the error
        raise
    if peer.read_message().get("received") is not True:
        raise _invalid(peer, "no confirmation of the data")


def receive_tree(
    peer: Peer,
    directory: int,
    place: str,
    part: str,
    commit: Callable[[Staging], object],
    *,
    owner: tuple[int, int] | None = None,
    accept: Callable[[Tree], object] = bool,
) -> Tree:
    """Receive a tree into a directory, and return its description.

    :arg place: path of the directory, for messages.
    :arg part: the name of the part directory, the same for each connection of the transfer.
    :arg commit: gives the complete and durable tree its final names, such as :meth:`.Staging.publish`.
    :arg owner: uid and gid of the files.
    :arg accept: raises if the tree must not be received. It is called before any data arrives.
    :raises Broken: the connection broke; :raises VmstoreError: the data can't be stored, or isn't that of the tree.
    """
    tree = _read_tree(peer)
    accept(tree)
    staging = open_staging(directory, place, part, tree, owner)
    is_kept = False
    try:
        with os_errors(f"receive files in {place}"):
            position = staging.begin()
            peer.write(encode({"position": [position.index, position.offset, position.digest.hex()]}))
            receive_data(staging, position, peer.read_into, peer.name)
            staging.make_durable()
        commit(staging)
    except Broken:
        is_kept = True
        raise
    finally:
        if not is_kept:
            staging.remove()
        staging.close()
    return tree


def confirm(peer: Peer) -> None:
    """Let the sender know that :func:`receive_tree` returned."""
    peer.write(encode({"received": True}))


def _read_tree(peer: Peer) -> Tree:
    try:
        tree: Tree = read_plain(peer.read_message().get("tree"), "tuple[Entry, ...]", {"Entry": Entry})
        check_tree(tree)
    except (BadTree, Mismatch) as error:
        raise _invalid(peer, str(error)) from error
    if not tree:
        raise _invalid(peer, "no files")
    return tree


def _read_position(peer: Peer, tree: Tree) -> Position:
    try:
        index, offset, digest = peer.read_message()["position"]
        position = Position(index, offset, bytes.fromhex(digest))
        is_number = isinstance(index, int) and isinstance(offset, int)
        is_within = index == offset == 0 or (index in range(len(tree)) and 0 <= offset <= tree[index].size)
        if is_number and is_within and len(position.digest) == len(digest_of(tree)):
            return position
    except (LookupError, TypeError, ValueError):
        pass
    raise _invalid(peer, "no position in the data")


def _invalid(peer: Peer, why: str) -> TransferFailed:
    return TransferFailed(f"The {peer.name} sent an invalid message about files: {printable(why)}.")


__all__ = ["LONGEST_TREE", "Broken", "Peer", "confirm", "receive_tree", "send_tree"]
