# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reasons for which a domain can't migrate. Each is a sentence, so that all are reported at once."""

from __future__ import annotations

import contextlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from .._core.errors import Conflict, LibvirtFailed
from .._core.records import dataclass
from .connection import Domain, Hypervisor
from .devices.disk import layers_of
from .domain_xml import attribute, devices, parse, to_text
from .running_disk import RunningDisk

#: Paths of the elements with files of the host beside those of disks (https://libvirt.org/formatdomain.html).
_FILES = ("os/kernel", "os/initrd", "os/dtb", "os/loader")


@dataclass(frozen=True)
class DomainDisk:
    """A disk of a domain.

    :arg files: paths of its files, each before its backing file. A disk without files is elsewhere, or an empty drive.
    """

    target: str
    kind: str
    files: tuple[str, ...]
    is_written: bool

    def number_in(self, directory: str) -> int | None:
        """Return the number of the disk in a VM directory; ``None`` if its file is elsewhere."""
        if not self.files or not self.files[0].startswith(f"{directory}/disk."):
            return None
        number = self.files[0][len(directory) + len("/disk.") :].partition("/")[0].partition(".")[0]
        return int(number) if number.isdecimal() else None


def disks_of(root: ET.Element) -> list[DomainDisk]:
    """Return the disks of a domain."""
    found = []
    for element in devices(root).findall("disk"):
        names = (attribute(layer, "source", "file") for layer in layers_of(element))
        is_written = element.find("readonly") is None and element.get("device", "disk") == "disk"
        found.append(
            DomainDisk(
                attribute(element, "target", "dev") or "",
                element.get("type", "file"),
                tuple(os.path.normpath(name) for name in names if name),
                is_written,
            )
        )
    return found


# At the source


def departure_reasons(domain: Domain, directory: str, *, is_live: bool) -> list[str]:
    """Return the reasons for which a domain can't leave its host.

    :arg directory: the directory of the VM.
    :arg is_live: whether the domain runs and will run on.
    """
    text = domain.running_xml() if is_live else None
    root = parse(domain.persistent_xml(secrets=False) if text is None else text)
    reasons = [*_kept_states(domain), *_host_devices(root), *_outside_disks(root, directory)]
    return reasons + ([*_jobs(domain, root)] if is_live else [*_saved_state(domain), *state_files(root)])


def _kept_states(domain: Domain) -> Iterator[str]:
    name = domain.name
    if not domain.is_persistent:
        yield f"The domain {name!r} is transient: define it first."
        return
    with domain.calls("list the snapshots and checkpoints of"):
        snapshots = domain.handle.snapshotListNames(0)
        checkpoints = [one.getName() for one in domain.handle.listAllCheckpoints(0)]
    if snapshots:
        yield (
            f"The domain {name!r} has the libvirt snapshots {', '.join(snapshots)}: remove them with 'virsh "
            "snapshot-delete'."
        )
    if checkpoints:
        yield (
            f"The domain {name!r} has the checkpoints {', '.join(checkpoints)}: remove them with 'virsh "
            "checkpoint-delete'."
        )


def _host_devices(root: ET.Element) -> Iterator[str]:
    for element in devices(root).findall("hostdev"):
        yield f"The domain has a device of the host (hostdev, {element.get('type')}), which stays on its host."
    for element in devices(root).findall("interface"):
        if element.get("type") == "hostdev":
            yield "The domain has a network device of the host (interface, hostdev), which stays on its host."
    if root.find("devices/tpm/backend[@type='passthrough']") is not None:
        yield "The domain has the TPM of the host, which stays on its host."
    for element in devices(root).findall("filesystem"):
        if attribute(element, "driver", "type") != "virtiofs":
            tag = attribute(element, "target", "dir")
            yield f"The domain has the file system {tag!r} with another driver than virtiofs, which can't migrate."


def _outside_disks(root: ET.Element, directory: str) -> Iterator[str]:
    for disk in disks_of(root):
        if disk.kind in ("block", "dir", "volume", "vhostuser", "nvme"):
            yield f"The disk {disk.target!r} is of the type {disk.kind}, which stays on its host."
        elif disk.files and disk.is_written and disk.number_in(directory) is None:
            yield (
                f"The disk {disk.target!r} is the file {disk.files[0]}, which is no disk of the VM in the catalog, so "
                "its data would stay behind."
            )


def _jobs(domain: Domain, root: ET.Element) -> Iterator[str]:
    """Yield the jobs on the domain and on its disks, each once."""
    found: dict[str, None] = {}
    for disk in disks_of(root):
        if disk.files:
            try:
                RunningDisk(domain, disk.files[0], disk.target).check_idle()
            except Conflict as error:
                found[str(error)] = None
    yield from found


def _saved_state(domain: Domain) -> Iterator[str]:
    if domain.saved_xml() is not None:
        yield (
            f"The domain {domain.name!r} has a saved state, which stays on its host: start the domain, or remove the "
            "state with 'virsh managedsave-remove'."
        )


def state_files(root: ET.Element) -> Iterator[str]:
    """Yield the files of libvirt that a running domain takes along, and a definition does not."""
    if root.find("os/nvram") is not None:
        yield "The domain has UEFI variables (NVRAM) on its host: start the domain, and migrate it live."
    if root.find("devices/tpm/backend[@type='emulator']") is not None:
        yield "The domain has the state of a TPM on its host: start the domain, and migrate it live."


# At the target


def arrival_reasons(
    hypervisor: Hypervisor, root: ET.Element, *, is_live: bool, libvirt: int, qemu: int, host_cpu: str | None
) -> list[str]:
    """Return the reasons for which libvirt on this host can't take a domain of another host.

    :arg root: the domain, which runs if ``is_live``.
    :arg libvirt: version of libvirt at the source, and ``qemu`` that of QEMU, as libvirt's numbers.
    :arg host_cpu: processor of the source, for a guest that has this processor.
    """
    reasons = [*_same_domain(hypervisor, root, is_live=is_live), *_emulator(hypervisor, root)]
    reasons += [*_networks(hypervisor, root)]
    if is_live:
        reasons += [*_versions(hypervisor, libvirt, qemu), *_processor(hypervisor, root, host_cpu)]
    return reasons


def _same_domain(hypervisor: Hypervisor, root: ET.Element, *, is_live: bool) -> Iterator[str]:
    name, uuid = root.findtext("name") or "", root.findtext("uuid") or ""
    for domain in hypervisor.domains():
        if (domain.name, domain.uuid) == (name, uuid):
            if domain.is_running:
                yield f"The domain {name!r} runs there already."
        elif domain.name == name:
            yield f"Another domain has the name {name!r} there (UUID {domain.uuid})."
        elif domain.uuid == uuid:
            yield f"The domain {domain.name!r} has the UUID {uuid} there."


def _emulator(hypervisor: Hypervisor, root: ET.Element) -> Iterator[str]:
    kind, emulator = root.get("type"), root.findtext("devices/emulator")
    arch, machine = attribute(root, "os/type", "arch"), attribute(root, "os/type", "machine")
    try:
        with hypervisor.calls(f"run the machine {machine!r} there"):
            hypervisor.connection.getDomainCapabilities(emulator, arch, machine, kind, 0)
    except LibvirtFailed as error:
        yield str(error)


def _networks(hypervisor: Hypervisor, root: ET.Element) -> Iterator[str]:
    for element in devices(root).findall("interface"):
        network = attribute(element, "source", "network")
        device = attribute(element, "source", "bridge") or attribute(element, "source", "dev")
        if network is not None and not _is_active(hypervisor, network):
            yield f"The network {network!r} does not run there."
        elif network is None and device is not None and not _has_device(device):
            yield f"The bridge or network device {device!r} does not exist there."


def _is_active(hypervisor: Hypervisor, network: str) -> bool:
    with contextlib.suppress(LibvirtFailed), hypervisor.calls("look up a network"):
        return bool(hypervisor.connection.networkLookupByName(network).isActive())
    return False


def _has_device(name: str) -> bool:
    return os.path.exists(f"/sys/class/net/{os.path.basename(name)}")


def _versions(hypervisor: Hypervisor, libvirt: int, qemu: int) -> Iterator[str]:
    with hypervisor.calls("return its version"):
        versions = (
            ("libvirt", libvirt, hypervisor.connection.getLibVersion()),
            ("QEMU", qemu, hypervisor.connection.getVersion()),
        )
    for name, there, here in versions:
        if here < there:
            yield f"{name} is older there ({_version(here)}) than at the source ({_version(there)})."


def _version(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _processor(hypervisor: Hypervisor, root: ET.Element, host_cpu: str | None) -> Iterator[str]:
    """Yield the processor of the guest, if this host can't provide it."""
    cpu, incompatible = root.find("cpu"), hypervisor.libvirt.VIR_CPU_COMPARE_INCOMPATIBLE
    arch, machine = attribute(root, "os/type", "arch"), attribute(root, "os/type", "machine")
    if cpu is None:
        return
    try:
        with hypervisor.calls("compare the processors"):
            if host_cpu is not None:
                found = hypervisor.connection.compareCPU(host_cpu, 0)
            else:
                found = hypervisor.connection.compareHypervisorCPU(
                    root.findtext("devices/emulator"), arch, machine, root.get("type"), to_text(cpu), 0
                )
    except LibvirtFailed as error:
        yield str(error)
        return
    if found == incompatible:
        model = cpu.findtext("model") or cpu.get("mode")
        yield f"The processor there lacks features of the guest's processor ({model})."


def host_files(root: ET.Element, directory: str) -> list[str]:
    """Return the files outside a VM directory that the domain needs on its host."""
    files = [element.text for path in _FILES for element in root.findall(path) if element.text]
    files += [file for disk in disks_of(root) for file in disk.files]
    files += [element.get("path") or "" for element in root.findall("devices/filesystem/binary")]
    return sorted({file for file in files if file.startswith("/") and not file.startswith(f"{directory}/")})


__all__ = ["DomainDisk", "arrival_reasons", "departure_reasons", "disks_of", "host_files", "state_files"]
