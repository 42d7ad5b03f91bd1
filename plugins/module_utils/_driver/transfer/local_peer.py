# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A transfer between two places of this host. The peers have the methods of :class:`.TreePeer`, so that an operation
doesn't depend on the place of its peer.
"""

from __future__ import annotations

from collections.abc import Callable

from ..._core.errors import os_errors
from ..._core.records import dataclass
from ..._core.temporary import new_part_name
from ..._image.copy import copy_local
from ..._remote.staging import Staging, open_staging
from ..._remote.tree import FILE, Source, Tree


@dataclass(frozen=True)
class Target:
    """The place that gets a tree.

    :arg directory: descriptor of the directory; ``place`` is its path for messages.
    :arg commit: gives the complete and durable tree its final names.
    :arg owner: uid and gid of the files. The default is the user of the process.
    :arg accept: raises if the tree must not be received.
    """

    directory: int
    place: str
    commit: Callable[[Staging], object] = Staging.publish
    owner: tuple[int, int] | None = None
    accept: Callable[[Tree], object] = bool


class LocalSender:
    """The peer of an operation that receives a tree."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def receive(
        self,
        directory: int,
        place: str,
        commit: Callable[[Staging], object] = Staging.publish,
        *,
        owner: tuple[int, int] | None = None,
        accept: Callable[[Tree], object] = bool,
    ) -> Tree:
        return copy_tree(self._source, Target(directory, place, commit, owner, accept))


class LocalReceiver:
    """The peer of an operation that sends a tree."""

    #: Whether the tree arrived in an earlier run of the operation.
    has_received = False

    def __init__(self, target: Target) -> None:
        self._target = target

    def send(self, source: Source) -> Tree | None:
        return copy_tree(source, self._target)


def copy_tree(source: Source, target: Target) -> Tree:
    """Copy a tree within this host, and return its description.

    :raises StaleState: a file changed meanwhile.
    :raises VmstoreError: the tree can't be read or written.
    """
    tree = source.describe()
    target.accept(tree)
    staging = open_staging(target.directory, target.place, new_part_name(), tree, target.owner)
    try:
        with os_errors(f"copy files to {target.place}"):
            staging.begin()
            for entry in tree:
                if entry.kind == FILE:
                    with source.opened(entry) as read, staging.opened(entry) as written:
                        copy_local(read, written)
            staging.make_durable()
        target.commit(staging)
    finally:
        staging.remove()
        staging.close()
    return tree


__all__ = ["LocalReceiver", "LocalSender", "Target", "copy_tree"]
