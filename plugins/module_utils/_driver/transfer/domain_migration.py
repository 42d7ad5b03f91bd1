# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations on the domain of a VM that migrates to another host. The hosts themselves run this module."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

from ..._core.deadline import run_with_deadline
from ..._core.errors import LibvirtFailed, NotFound, VmstoreError
from ..._core.files import read_text
from ..._core.records import TYPE_CHECKING, dataclass
from ..._host.ids import idmap_check, subid
from ..._host.mount.store import read_root
from ..._host.virtiofsd.program import WRAPPER
from ..._host.virtiofsd.wrapper import configured_user
from ..._libvirt.connection import DEFAULT_URI, Hypervisor
from ..._libvirt.devices.filesystem import VirtioFs, filesystems
from ..._libvirt.domain_xml import attribute, parse, to_text
from ..._libvirt.migration import Migration, discard, was_left_paused
from ..._libvirt.migration import migrate as migrate_domain
from ..._libvirt.migration_check import arrival_reasons, departure_reasons, disks_of, host_files

if TYPE_CHECKING:
    from typing import Any

#: Upper bound of the time to read the marker of one store in seconds.
STORE_DEADLINE = 10.0


@dataclass(frozen=True)
class WrittenDisk:
    """A disk of the catalog to which the running domain writes.

    :arg target: name of the device, such as ``vda``.
    """

    number: int
    target: str


@dataclass(frozen=True)
class StoreMark:
    """A directory that a domain has as a virtiofs export, in a store with a marker.

    :arg store: root directory of the store.
    """

    directory: str
    store: str
    marker: str


@dataclass(frozen=True)
class Departure:
    """A domain that is to leave its host.

    :arg reasons: reasons for which the domain can't leave, as sentences.
    :arg xml: the domain without secrets. It is the running one in a live migration.
    :arg is_left: whether a killed migration left the domain paused.
    :arg libvirt: version of libvirt, and ``qemu`` that of QEMU, as libvirt's numbers.
    :arg host_cpu: processor of the host, if the guest has this processor.
    :arg has_autostart: whether the domain starts with its host.
    """

    reasons: tuple[str, ...]
    xml: str
    is_left: bool
    written: tuple[WrittenDisk, ...]
    stores: tuple[StoreMark, ...]
    libvirt: int
    qemu: int
    host_cpu: str | None
    has_autostart: bool


def check_departure(domain: str, directory: str, is_live: bool) -> Departure:
    """Return the state of a domain that is to leave this host. Nothing is changed.

    :arg directory: the directory of the VM.
    """
    found = Hypervisor(DEFAULT_URI).domain(domain)
    text = found.running_xml() if is_live else None
    if text is None:
        text = found.persistent_xml(secrets=False)
    root = parse(text)
    reasons = departure_reasons(found, directory, is_live=is_live)
    stores = []
    for _element, device in filesystems(root):
        mark = _find_store(device.source)
        if mark is None:
            reasons.append(
                f"The virtiofs source {device.source} is in no store with a marker, which shows that both hosts have "
                "the same directory: mount it with the module shared_mount and the option marker."
            )
        else:
            stores.append(mark)
    with found.calls("look at the host of"):
        libvirt = found.hypervisor.connection.getLibVersion()
        qemu = found.hypervisor.connection.getVersion()
        capabilities = found.hypervisor.connection.getCapabilities()
        has_autostart = bool(found.handle.autostart())
    is_passed = attribute(root, "cpu", "mode") == "host-passthrough"
    host_cpu = parse(capabilities).find("host/cpu") if is_passed else None
    return Departure(
        tuple(reasons),
        text,
        is_live and was_left_paused(found),
        tuple(_written(root, directory)),
        tuple(stores),
        libvirt,
        qemu,
        None if host_cpu is None else to_text(host_cpu),
        has_autostart,
    )


def _written(root: Any, directory: str) -> Iterator[WrittenDisk]:
    for disk in disks_of(root):
        number = disk.number_in(directory)
        if disk.is_written and number is not None:
            yield WrittenDisk(number, disk.target)


def _find_store(path: str) -> StoreMark | None:
    """Return the innermost store with a marker around a directory."""
    store = os.path.normpath(path)
    while store != "/":
        marker = _read_marker(store)
        if marker is not None:
            return StoreMark(path, store, marker)
        store = os.path.dirname(store)
    return None


def _read_marker(store: str) -> str | None:
    doing = f"Reading the marker of {store}"
    try:
        return run_with_deadline(STORE_DEADLINE, doing, functools.partial(read_root, store)).marker
    except VmstoreError:
        return None


def check_arrival(departure: Departure, directory: str, is_live: bool) -> tuple[str, ...]:
    """Return the reasons for which this host can't take a domain, as sentences. Nothing is changed.

    :arg departure: the domain at the source.
    :arg directory: the directory of the VM.
    """
    root = parse(departure.xml)
    reasons = arrival_reasons(
        Hypervisor(DEFAULT_URI),
        root,
        is_live=is_live,
        libvirt=departure.libvirt,
        qemu=departure.qemu,
        host_cpu=departure.host_cpu,
    )
    reasons += [f"The file {path} of the domain does not exist there." for path in _missing(root, directory)]
    for mark in departure.stores:
        if not os.path.isdir(mark.directory) or _read_marker(mark.store) != mark.marker:
            reasons.append(
                f"The virtiofs source {mark.directory} is not the same directory there: mount the store "
                f"{mark.marker} on {mark.store}."
            )
    for _element, device in filesystems(root):
        reasons += _foreign_ids(device)
    return tuple(reasons)


def _missing(root: Any, directory: str) -> Iterator[str]:
    for path in host_files(root, directory):
        try:
            os.stat(path)
        except FileNotFoundError:
            yield path
        except OSError:
            continue  # this user can't look at a file that QEMU may read


def _foreign_ids(device: VirtioFs) -> Iterator[str]:
    """Yield the ids of a virtiofs device that the user of virtiofsd can't map on this host."""
    user = _daemon_user(device)
    for kind, maps in (("uid", device.uid_map), ("gid", device.gid_map)):
        # If the user is unknown, the ids of any user are accepted.
        owned = [subid.ranges_of(one, kind) for one in ([user] if user else _owners(kind) if maps else [])]
        for one in maps:
            if not any(idmap_check.is_covered(ranges, one.target, one.count) for ranges in owned):
                beginning = f"The user {user!r} of virtiofsd lacks" if user else "No user has"
                yield (
                    f"{beginning} the subordinate {kind}s {one.target} to {one.target + one.count - 1} there, which "
                    f"the virtiofs device {device.tag!r} maps."
                )


def _daemon_user(device: VirtioFs) -> str | None:
    """Return the user of virtiofsd; ``None`` if a device has another program, or if only root can read the user."""
    if device.binary == WRAPPER:
        with contextlib.suppress(PermissionError):
            return configured_user()
    return None


def _owners(kind: str) -> list[str]:
    return sorted({one.owner for one in subid.parse(read_text(os.path.join("/etc", subid.FILES[kind])))})


def migrate(domain: str, order: Migration, log: Callable[[str], object]) -> None:
    """Migrate a running domain of this host. After an error, its guest runs on here."""
    migrate_domain(Hypervisor(DEFAULT_URI).domain(domain), order, log)


def discard_left(domain: str) -> None:
    """Remove the domain that a killed migration left paused, and whose guest runs on another host."""
    discard(Hypervisor(DEFAULT_URI).domain(domain))


def read_definition(domain: str) -> str:
    """Return the definition of a domain with its secrets."""
    return Hypervisor(DEFAULT_URI).domain(domain).persistent_xml()


def define(text: str) -> None:
    """Define the domain of another host."""
    Hypervisor(DEFAULT_URI).define(text)


def enable_autostart(uuid: str) -> None:
    """Let a domain start with this host."""
    found = Hypervisor(DEFAULT_URI).domain_by_uuid(uuid)
    with found.calls("enable the autostart of"):
        found.handle.setAutostart(1)


def undefine(uuid: str) -> None:
    """Remove the definition of a domain. A domain that doesn't exist is accepted.

    :raises LibvirtFailed: the domain runs.
    """
    try:
        found = Hypervisor(DEFAULT_URI).domain_by_uuid(uuid)
    except NotFound:
        return
    if found.is_running:
        raise LibvirtFailed(f"The domain {found.name!r} runs, so its definition stays.")
    found.undefine()


def perform(action: str, *arguments: Any, log: Callable[[str], object]) -> Any:
    """Run an operation on this host.

    :raises VmstoreError: the error of the operation.
    """
    operation = functools.partial(migrate, log=log) if action == "migrate" else _OPERATIONS[action]
    return operation(*arguments)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "check_arrival": check_arrival,
    "check_departure": check_departure,
    "define": define,
    "discard_left": discard_left,
    "enable_autostart": enable_autostart,
    "read_definition": read_definition,
    "undefine": undefine,
}

__all__ = ["Departure", "StoreMark", "WrittenDisk", "perform"]
