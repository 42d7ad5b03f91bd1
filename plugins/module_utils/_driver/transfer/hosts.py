# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Operations of transfer drivers on this host, and on other hosts over one ssh connection each."""

from __future__ import annotations

import os
from typing import Any

from ..._core.errors import SharedDirectory
from ..._model.place import Place
from ..._remote.transfer import Route, pull_tree
from ..._remote.tree import Source
from . import protocol, remote
from .host_actions import HostActions
from .local_peer import LocalReceiver, LocalSender, Target
from .migration_actions import new_token
from .operations import KINDS, OPERATIONS
from .remote import Hosts, Log, request

#: Names and addresses of this host, beside its own name.
LOCAL = ("localhost", "127.0.0.1", "::1")


def is_this_host(host: str) -> bool:
    """Return whether a name is that of the host that runs this process. One of the two may lack its domain."""
    own = os.uname().nodename
    if host in (own, *LOCAL):
        return True
    (name, _dot, domain), (own_name, _dot, own_domain) = host.partition("."), own.partition(".")
    return name == own_name and not (domain and own_domain)


def is_same_host(one: str, other: str) -> bool:
    """Return whether two names are those of one host."""
    return one == other or (is_this_host(one) and is_this_host(other))


def run(host: str, action: str, *arguments: Any, log: Log) -> Any:
    """Return the result of an operation that transfers no files.

    :raises HostUnreachable: the host can't be used; :raises TransferFailed: the connection broke.
    :raises VmstoreError: the error of the operation.
    """
    if is_this_host(host):
        return getattr(HostActions(None, log, HOSTS), action)(*arguments)
    return remote.run(host, action, *arguments, log=log)


def push(host: str, action: str, *arguments: Any, source: Source, log: Log) -> Any:
    """Return the result of an operation that receives files. The errors are those of :func:`run`.

    :raises NotFound, Conflict: the files can't be sent.
    """
    if is_this_host(host):
        return getattr(HostActions(LocalSender(source), log, HOSTS), action)(*arguments)
    return remote.push(host, action, *arguments, source=source, log=log)


def pull(host: str, action: str, *arguments: Any, target: Target, log: Log) -> Any:
    """Return the result of an operation that sends files. The errors are those of :func:`run`."""
    if is_this_host(host):
        return getattr(HostActions(LocalReceiver(target), log, HOSTS), action)(*arguments)
    return pull_tree(
        Route(host, protocol.__name__, log),
        action,
        OPERATIONS[action],
        request(action, arguments),
        target.directory,
        target.commit,
        kinds=KINDS,
        owner=target.owner,
        accept=target.accept,
    )


def receive_directory(origin: Place, path: str, monitor: str | None, *, log: Log) -> None:
    """Move a VM directory of another host to this host. The errors are those of :func:`run`."""

    class Sender:
        """The other host, as the peer of an operation that receives a tree."""

        @staticmethod
        def receive(directory: int, place: str, commit: Any, *, owner: Any, accept: Any) -> None:
            target = Target(directory, place, commit, owner, accept)
            pull(origin.host, "send_directory", origin.path, os.path.basename(path), token, target=target, log=log)

    with new_token(path) as token:
        try:
            HostActions(Sender, log, HOSTS).receive_directory(path, monitor)
        except SharedDirectory:
            log(f"{path} is the directory {origin}, so it stays.")


#: The way of the front-end, which can be one of the hosts that an operation names.
HOSTS = Hosts(run, push)

__all__ = ["is_same_host", "is_this_host", "pull", "push", "receive_directory", "run"]
