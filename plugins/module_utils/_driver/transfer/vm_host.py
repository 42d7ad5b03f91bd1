# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host as it is: the directories of VMs with their disks, free space, and the domains. The host itself runs this
module, once for any number of VMs.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..._core.directory import opened_directory
from ..._core.errors import LibvirtFailed, LibvirtMissing, NotFound, VmstoreError, os_errors
from ..._core.plan import Plan
from ..._core.records import TYPE_CHECKING, dataclass
from ..._image.image_file import LARGEST
from ..._image.room import may_compress, room
from ..._image.vm_directory import DiskPath, opened_vm_directory, parse_disk_path
from ..._image.vm_disk import DiskRecord
from ..._image.vm_disk_data import DiskFacts, describe_disk
from ..._image.vm_usage import read_capacity

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ..._libvirt.connection import Domain
    from ..._libvirt.devices.disk import Disk
    from ..._libvirt.disk_attachment import DiskPlan

    T = TypeVar("T")


@dataclass(frozen=True)
class VmQuery:
    """A VM to look at.

    :arg directory: the path of the VM's directory.
    :arg disks: the recorded disks.
    :arg domain: the name of the domain to look at; ``None`` for none.
    """

    directory: str
    disks: tuple[DiskRecord, ...] = ()
    domain: str | None = None


@dataclass(frozen=True)
class DiskState:
    """A recorded disk as it is.

    :arg facts: the disk; ``None`` if it is missing or can't be described.
    :arg trouble: the reason, as a sentence, if something else is in the place of the disk.
    """

    path: str
    facts: DiskFacts | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class DomainDisk:
    """A disk of a domain, in its definition and while it runs. ``files`` are the paths of its files."""

    files: tuple[str, ...]
    target: str
    bus: str
    read_only: bool
    shareable: bool
    is_running: bool


@dataclass(frozen=True)
class DomainState:
    """A domain.

    :arg disks: its disks, and those of its running state.
    """

    name: str
    is_running: bool
    is_persistent: bool
    disks: tuple[DomainDisk, ...] = ()


@dataclass(frozen=True)
class VmState:
    """A VM as it is on a host.

    :arg exists: whether the VM has a directory.
    :arg names: the names in the directory that belong to disks, such as ``disk.0``.
    :arg disks: the disks of the query, in the same order.
    :arg domain: ``None`` if libvirt has no such domain, or wasn't asked.
    """

    directory: str
    exists: bool
    names: tuple[str, ...] = ()
    disks: tuple[DiskState, ...] = ()
    domain: DomainState | None = None


@dataclass(frozen=True)
class HostState:
    """A host as it is.

    :arg vms: the VMs of the query, in the same order.
    :arg room: bytes that new disks may take, by the directory of a system datastore. A datastore is left out if the
        directory around it is missing, so that no disk can be created.
    :arg capacity: the MiB that are used, free and there in all, of the file systems of the same directories.
    :arg libvirt_error: the reason, if libvirt can't be used.
    """

    vms: tuple[VmState, ...]
    room: dict[str, int]
    capacity: dict[str, tuple[int, ...]]
    libvirt_error: str | None = None


@dataclass(frozen=True)
class AttachResult:
    """The result of attaching or detaching a disk.

    :arg restart_reasons: reasons for which the running domain keeps its disks as they are, until its next start.
    """

    restart_reasons: tuple[str, ...] = ()


def perform(action: str, *arguments: Any, log: Callable[[str], object] = str) -> Any:
    """Run an operation on this host.

    :arg log: is not used, because no operation takes long.
    :raises VmstoreError: the error of the operation.
    """
    return _OPERATIONS[action](*arguments)


def attach(domain: str, disk: Disk) -> AttachResult:
    """Give a domain a disk: in its definition, and at once if it runs and the bus allows it.

    :raises DependencyNotFound: libvirt has no such domain.
    :raises VmstoreError: libvirt refuses the disk, and nothing is changed.
    """
    from ..._libvirt.connection import DEFAULT_URI, Hypervisor
    from ..._libvirt.disk_attachment import plan_attachment

    return _run(plan_attachment(Hypervisor(DEFAULT_URI).domain(domain), disk))


def detach(domain: str, path: str) -> AttachResult:
    """Take a disk from a domain: from the running domain first, and then from its definition. A domain that doesn't
    exist has no disk.

    :arg path: the path of the disk.
    :raises VmstoreError: the guest doesn't release the disk, and nothing is changed.
    """
    from ..._libvirt.connection import DEFAULT_URI, Hypervisor
    from ..._libvirt.disk_attachment import plan_detachment

    found = Hypervisor(DEFAULT_URI).find_domain(domain)
    return AttachResult() if found is None else _run(plan_detachment(found, path))


def resize(domain: str, path: str, size: int) -> None:
    """Grow a disk of a running domain.

    :arg path: the path of the disk.
    :arg size: bytes.
    :raises VmstoreError: the disk can't grow.
    """
    from ..._libvirt.connection import DEFAULT_URI, Hypervisor
    from ..._libvirt.running_disk import find_running_disk

    find_running_disk(Hypervisor(DEFAULT_URI).domain(domain), path).resize(size)


def _run(plan: DiskPlan) -> AttachResult:
    Plan(actions=plan.actions).run()
    return AttachResult(tuple(plan.restart_reasons))


def look(queries: Sequence[VmQuery]) -> HostState:
    """Return the state of VMs on this host. Nothing is changed.

    :raises FileAccessFailed: a directory can't be read.
    """
    domains, error = _look_at_domains({one.domain for one in queries if one.domain is not None})
    paths = {os.path.dirname(one.directory) for one in queries}
    present = sorted(path for path in paths if os.path.isdir(os.path.dirname(path)))
    return HostState(
        tuple(_look_at_vm(one, domains) for one in queries),
        {path: _of_file_system(path, _room) for path in present},
        {path: _of_file_system(path, read_capacity) for path in present},
        error,
    )


def _look_at_vm(query: VmQuery, domains: dict[str, DomainState]) -> VmState:
    path = parse_disk_path(query.directory, directory=True)
    names = _names(path)
    return VmState(
        query.directory,
        names is not None,
        names or (),
        tuple(_look_at_disk(one) for one in query.disks),
        domains.get(query.domain or ""),
    )


def _names(path: DiskPath) -> tuple[str, ...] | None:
    """Return the names of disks in a VM's directory; ``None`` if the directory is missing."""
    try:
        with opened_vm_directory(path) as directory, os_errors(f"read {path.directory}"):
            opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            try:
                names = os.listdir(opened)
            finally:
                os.close(opened)
    except NotFound:
        return None
    return tuple(sorted(name for name in names if name.startswith("disk.") and name[5:].isdecimal()))


def _look_at_disk(record: DiskRecord) -> DiskState:
    try:
        return DiskState(record.path, describe_disk(record))
    except NotFound:
        return DiskState(record.path, trouble=_trouble(parse_disk_path(record.path)))
    except VmstoreError as error:  # the other disks are described all the same
        return DiskState(record.path, trouble=str(error))


def _trouble(path: DiskPath) -> str | None:
    """Return the reason why a file isn't the disk of its name; ``None`` without a file. A link to a lost file counts as
    lost, too.
    """
    with contextlib.suppress(NotFound, FileNotFoundError), opened_vm_directory(path) as directory:
        if not stat.S_ISLNK(os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode):
            return f"{path.path} is not used: it is neither a regular file nor a link."
    return None


def _room(opened: int) -> int:
    """Return the bytes that new disks may take in a directory. A file system that compresses has no limit."""
    return LARGEST if may_compress(opened) else room(opened)


def _of_file_system(path: str, read: Callable[[int], T]) -> T:
    """Return a fact about the file system of a directory. A missing directory will be created in the one around it."""
    while True:
        try:
            with opened_directory(path, option="datastore") as opened:
                return read(opened)
        except FileNotFoundError:
            path = os.path.dirname(path)
        except OSError as error:
            with os_errors(f"look at the file system of {path}"):
                raise error


def _look_at_domains(names: Iterable[str]) -> tuple[dict[str, DomainState], str | None]:
    """Return the domains by name, and the reason if libvirt can't be used."""
    wanted = sorted(names)
    if not wanted:
        return {}, None
    from ..._libvirt.connection import DEFAULT_URI, Hypervisor

    found = {}
    try:
        hypervisor = Hypervisor(DEFAULT_URI, read_only=True)
        for name in wanted:
            domain = hypervisor.find_domain(name)
            if domain is not None and domain.name == name:
                with contextlib.suppress(NotFound):  # the domain was just removed
                    found[name] = _look_at_domain(domain)
    except (LibvirtMissing, LibvirtFailed) as error:
        return found, str(error)
    return found, None


def _look_at_domain(domain: Domain) -> DomainState:
    is_persistent, running = domain.is_persistent, domain.running_xml()
    disks = [] if running is None else list(_disks(running, is_running=True))
    if is_persistent:
        disks += _disks(domain.persistent_xml(secrets=False), is_running=False)
    return DomainState(domain.name, running is not None, is_persistent, tuple(disks))


def _disks(text: str, *, is_running: bool) -> Iterator[DomainDisk]:
    from ..._libvirt.devices.disk import layers_of, read_disk
    from ..._libvirt.domain_xml import attribute, devices, parse

    for element in devices(parse(text)).findall("disk"):
        disk = read_disk(element)
        paths = (attribute(layer, "source", "file") for layer in layers_of(element))
        files = tuple(os.path.normpath(path) for path in paths if path)
        yield DomainDisk(files, disk.target or "", disk.bus, disk.read_only, disk.shareable, is_running)


_OPERATIONS: dict[str, Callable[..., Any]] = {"look": look, "attach": attach, "detach": detach, "resize": resize}

__all__ = [
    "AttachResult",
    "DiskState",
    "DomainDisk",
    "DomainState",
    "HostState",
    "VmQuery",
    "VmState",
    "perform",
]
