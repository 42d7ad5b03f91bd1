# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VMs on hosts as they are, each looked at once. Planning compares this with the catalog."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from ..._core.errors import (
    CommandFailed,
    Conflict,
    DependencyNotFound,
    HostUnreachable,
    LibvirtMissing,
    NoSpace,
    printable,
)
from ..._core.records import dataclass
from ..._driver.transfer import vm_host_protocol
from ..._driver.transfer.hosts import is_this_host
from ..._driver.transfer.vm_host import DomainState, HostState, VmQuery, VmState
from ..._image.vm_disk import DiskRecord
from ..._image.vm_disk_data import DiskFacts
from ..._model.declared_vm import DeclaredDisk, DeclaredVm
from ..._model.place import Place
from ..._remote.session import Session

#: Upper bound of the time of a look at one VM in seconds. A host that looks at many has more time.
LOOK = 30.0


def ask_host(
    host: str,
    action: str,
    *arguments: Any,
    log: Callable[[str], object],
    timeout: float = LOOK,
    protocol: ModuleType = vm_host_protocol,
) -> Any:
    """Return the result of an operation of a host.

    :arg protocol: the module with the operations.
    :raises HostUnreachable: the host can't be used.
    :raises VmstoreError: the error of the operation.
    """
    if is_this_host(host):
        return protocol.perform(action, *arguments, log=log)
    with Session(host, kind="host", module=protocol.__name__, log=log) as session:
        refusal = session.handshake()
        if refusal is not None:
            raise HostUnreachable(f"The host {host} can't be used: {refusal}.")
        request: dict[str, object] = {"action": action, "arguments": arguments, "named": {}, "size": None}
        return session.ask(action, protocol.OPERATIONS[action], request, kinds=protocol.KINDS, timeout=timeout)


def look_at(host: str, queries: Sequence[VmQuery], *, log: Callable[[str], object]) -> HostState:
    """Return the state of VMs on a host.

    :raises HostUnreachable: the host can't be used.
    :raises CommandFailed: the host returns another state than that of the VMs.
    """
    state: HostState = ask_host(host, "look", tuple(queries), log=log, timeout=LOOK + len(queries))
    wanted = [(query.directory, *(disk.path for disk in query.disks)) for query in queries]
    found = [(vm.directory, *(disk.path for disk in vm.disks)) for vm in state.vms]
    datastores = {os.path.dirname(query.directory) for query in queries}
    if found != wanted or not {*state.room, *state.capacity} <= datastores:
        raise CommandFailed(f"The host {host} was asked about {len(queries)} VMs and described others.")
    return state


@dataclass(frozen=True)
class Look:
    """A VM to look at, where it is or will be."""

    place: Place
    vm: DeclaredVm
    disks: tuple[DeclaredDisk, ...]
    needs_domain: bool


class World:
    """The hosts as they are. Each directory of a VM is looked at once, all those of a host over one connection.

    :arg log: is called with each log line of a host.
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._libvirt_errors: dict[str, str | None] = {}
        self._room: dict[tuple[str, str], int] = {}
        self._vms: dict[Place, VmState] = {}
        self._with_domain: set[Place] = set()
        self._taken: dict[tuple[str, str], int] = defaultdict(int)

    def look(self, wanted: Iterable[Look], record_of: Callable[[DeclaredVm, DeclaredDisk], DiskRecord]) -> None:
        """Look at the VMs that weren't looked at yet.

        :arg record_of: returns the record of a disk for the host.
        :raises VmstoreError: a host can't be used.
        """
        missing: dict[str, list[Look]] = defaultdict(list)
        for one in wanted:
            if one.place not in self._vms or (one.needs_domain and one.place not in self._with_domain):
                missing[one.place.host].append(one)
        for host, looks in missing.items():
            queries = tuple(
                VmQuery(
                    one.place.path,
                    tuple(record_of(one.vm, disk) for disk in one.disks),
                    one.vm.domain if one.needs_domain else None,
                )
                for one in looks
            )
            state = look_at(host, queries, log=self._log)
            self._libvirt_errors[host] = state.libvirt_error or self._libvirt_errors.get(host)
            self._room.update({(host, directory): size for directory, size in state.room.items()})
            for one, found in zip(looks, state.vms):
                self._vms[one.place] = found
                self._with_domain |= {one.place} if one.needs_domain else set()
        self._taken.clear()

    def vm(self, place: Place) -> VmState:
        return self._vms[place]

    def has_file(self, place: Place, disk_id: int) -> bool:
        """Return whether the directory of a VM has a file with the name of a disk."""
        return f"disk.{disk_id}" in self._vms[place].names

    def disk(self, place: Place, disk_id: int) -> DiskFacts | None:
        """Return a recorded disk; ``None`` if it is missing.

        :raises Conflict: something else is in its place.
        """
        path = f"{place.path}/disk.{disk_id}"
        for found in self._vms[place].disks:
            if found.path == path:
                if found.trouble is not None:
                    raise Conflict(printable(found.trouble))
                return found.facts
        return None

    def domain(self, place: Place) -> DomainState | None:
        """Return the domain of a VM; ``None`` if libvirt has none.

        :raises LibvirtMissing: libvirt can't be used on the host.
        """
        error = self._libvirt_errors[place.host]
        if error is not None:
            error = printable(error)
            raise LibvirtMissing(f"The host {place.host}: {error}" if not is_this_host(place.host) else error)
        return self._vms[place].domain

    def is_running(self, place: Place) -> bool:
        """Return whether the domain of a VM runs, or a program uses one of its disks. Without libvirt, no domain
        runs.
        """
        found = self._vms[place]
        return (found.domain is not None and found.domain.is_running) or any(
            disk.facts is not None and disk.facts.is_used for disk in found.disks
        )

    def require_datastore(self, place: Place) -> None:
        """Require the directory with the datastores of a host, where the drivers create the directory of a VM.

        :raises DependencyNotFound: the directory is missing.
        """
        datastore = os.path.dirname(place.path)
        if (place.host, datastore) not in self._room:
            raise DependencyNotFound(
                f"datastore: the host {place.host} has no directory {os.path.dirname(datastore)}: create it for the "
                "service user, or mount the datastores there."
            )

    def take_room(self, place: Place, size: int, what: str) -> None:
        """Reserve room for new data in the plan.

        :arg size: bytes.
        :arg what: the new data, for the message.
        :raises NoSpace: the file system of the host has less room.
        """
        directory = os.path.dirname(place.path)
        left = self._room[place.host, directory] - self._taken[place.host, directory]
        if size > left:
            raise NoSpace(
                f"{what} takes {size >> 20} MiB, and {directory} on the host {place.host} has room for "
                f"{max(left, 0) >> 20} MiB."
            )
        self._taken[place.host, directory] += size


__all__ = ["Look", "World", "ask_host", "look_at"]
