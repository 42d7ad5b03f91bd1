# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots of a disk of a running domain: qcow2 overlays that QEMU writes to at once.

Facts about libvirt 9.0 and 11.3 with QEMU 7.2 and 10.0, for a disk whose path is a symbolic link to its newest file:

* libvirt keeps the path by which it opened a file. After a snapshot the link leads to the new file, so libvirt's name
  of the old file is wrong until the domain stops.
* A block commit opens its base by that name. It reports success, and the data is lost. So files are merged by block
  pulls only, which write to nothing but the newest file.
* A snapshot writes the chain with the wrong name into the definition, and the domain doesn't start with it.
* After a block pull, QEMU 7.2 has the data in memory only. A QEMU that is killed then has lost it. A pause writes the
  data to the file.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence

from .._core.errors import Conflict, LibvirtFailed
from .._core.records import dataclass
from .connection import Domain
from .devices.disk import file_names, find_disk, targets
from .domain_xml import obtain_child, parse, to_text
from .edit import DefinitionEdit
from .quiesce import quiesced
from .running_disk import Layer, Progress, RunningDisk, aborted_on_error, wait_for_job


@dataclass(frozen=True)
class DiskFile:
    """A file of a disk.

    :arg backing_name: the name of its backing file in its header; ``None`` without a backing file.
    """

    path: str
    backing_name: str | None


def create_snapshot(disk: RunningDisk, overlay: str, switch: Callable[[], object]) -> None:
    """Let the running domain write to ``overlay``, so that the present files of the disk are a snapshot.

    The domain has the overlay before the disk's own path leads there. Meanwhile the definition names the overlay, so
    that the domain starts with it wherever this process is killed.

    :arg overlay: a new qcow2 file on top of the present newest file.
    :arg switch: makes the disk's own path lead to ``overlay``.
    :raises Conflict: a job is under way on the disk.
    :raises LibvirtFailed: the domain still writes to the old file.
    """
    disk.check_idle()
    names = disk.domain.libvirt
    flags = (
        names.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | names.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        | names.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | names.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    )
    text = _snapshot_xml(disk, overlay)
    with disk.calls("create a snapshot of"):
        disk.domain.handle.snapshotCreateXML(text, flags)
    names_of_overlay = frozenset([os.path.normpath(overlay)])
    found = disk.domain.running_xml()
    if found is not None and find_disk(parse(found), names_of_overlay) is None:
        raise LibvirtFailed(f"libvirt did not let the {disk} write to {overlay!r}.")
    _name_disk(disk.domain, names_of_overlay, overlay)
    switch()
    name_disk(disk.domain, disk.path)


def _snapshot_xml(disk: RunningDisk, overlay: str) -> str:
    root = ET.Element("domainsnapshot")
    disks = ET.SubElement(root, "disks")
    for target in targets(parse(disk.domain.running_xml() or "<domain><devices/></domain>")):
        element = ET.SubElement(disks, "disk", {"name": target, "snapshot": "no"})
        if target == disk.target:
            element.attrib.update(snapshot="external", type="file")
            ET.SubElement(element, "driver", {"type": "qcow2"})
            ET.SubElement(element, "source", {"file": overlay})
    return to_text(root)


def name_disk(domain: Domain, path: str) -> None:
    """Let the definition name a disk by its own path, without the chain that libvirt wrote there.

    :raises StaleState, LibvirtFailed: see :meth:`DefinitionEdit.apply`.
    """
    _name_disk(domain, file_names(path), path)


def _name_disk(domain: Domain, names: frozenset[str], source: str) -> None:
    if not domain.is_persistent:
        return
    edit = DefinitionEdit(domain)
    element = find_disk(edit.root, names)
    if element is None:
        return
    obtain_child(element, "source").set("file", source)
    for backing in element.findall("backingStore"):
        element.remove(backing)
    edit.allow_additions(element)
    if edit.is_change:
        edit.apply()


def merge_files(
    disk: RunningDisk, files: Sequence[DiskFile], base: int, *, deadline: float, progress: Progress | None = None
) -> None:
    """Copy the data of all files between the newest file and ``files[base]`` into the newest file.

    Afterwards ``files[base]`` is the backing file of the newest file, and the running domain has closed the files
    between them. Their content is unchanged. They can be removed when this function has returned, not before. If this
    process is killed, QEMU completes the work, and a repeated call is still needed before files are removed.

    :arg files: all files of the disk, each before its backing file, as their headers say.
    :arg base: 1 merges nothing. The number of all files leaves the newest file without a backing file.
    :arg deadline: seconds. Afterwards the work is stopped, and the chain is as before.
    :raises Conflict: a job is under way on the disk, the domain has other files open, or the domain is paused.
    :raises TimedOut: the deadline has passed.
    :raises LibvirtFailed: a file can't be read or written.
    """
    disk.check_idle()
    layers = disk.layers()
    _check_files(disk, files, layers)
    if base > 1 and not disk.domain.is_halted:
        _merge(disk, files, base, layers, deadline, progress)
    # A pause writes the data to the file, also the data of an earlier merge whose process was killed.
    with quiesced(disk.domain, method="suspend") as way:
        if way == "halted":
            raise Conflict(
                f"The files of the {disk} can't be merged while the domain is paused, because QEMU does not write all "
                "data to the file then: resume the domain, or shut it off."
            )


def _merge(
    disk: RunningDisk,
    files: Sequence[DiskFile],
    base: int,
    layers: Sequence[Layer],
    deadline: float,
    progress: Progress | None,
) -> None:
    handle, names = disk.domain.handle, disk.domain.libvirt
    with disk.calls("merge the files of"):
        if base == len(files):
            handle.blockPull(disk.target, 0, 0)
        else:
            flags = names.VIR_DOMAIN_BLOCK_REBASE_RELATIVE if _is_relative(disk, files, base, layers) else 0
            handle.blockRebase(disk.target, layers[base].reference, 0, flags)

    def look() -> tuple[int, int] | None:
        with disk.calls("look at"):
            job = handle.blockJobInfo(disk.target)
        return (job["cur"], job["end"]) if job else None

    with aborted_on_error(disk, lambda: handle.blockJobAbort(disk.target, 0)):
        wait_for_job(f"Merging the files of the {disk}", look, deadline, progress)
    if [layer.path for layer in disk.layers()] != [layer.path for layer in (layers[0], *layers[base:])]:
        raise LibvirtFailed(
            f"libvirt did not merge the files of the {disk}: a file could not be read or written; the log of the "
            "domain has the reason."
        )


def _check_files(disk: RunningDisk, files: Sequence[DiskFile], layers: Sequence[Layer]) -> None:
    """Refuse files of which the domain has others open. The name of the file that the disk's own path led to when the
    domain started is wrong after a snapshot, so it isn't compared.
    """
    own = os.path.normpath(disk.path)
    differ = len(files) != len(layers) or any(
        os.path.normpath(layer.path) != own and os.path.realpath(layer.path) != os.path.realpath(file.path)
        for file, layer in zip(files, layers)
    )
    if differ:
        raise Conflict(
            f"The {disk} is not changed: the running domain has the files {[layer.path for layer in layers]} open, and "
            f"the headers on disk name {[file.path for file in files]}."
        )


def _is_relative(disk: RunningDisk, files: Sequence[DiskFile], base: int, layers: Sequence[Layer]) -> bool:
    """Return whether libvirt shall write a relative name of the new backing file.

    libvirt computes it from the names in the headers of the files, of which one absolute name makes it wrong without an
    error. An absolute name is the path by which libvirt opened the file.

    :raises Conflict: the name would be wrong.
    """
    if not any(os.path.isabs(file.backing_name or "") for file in files[:base]):
        return True
    if os.path.realpath(layers[base].path) != os.path.realpath(files[base].path):
        raise Conflict(
            f"The files of the {disk} can't be merged while the domain runs: libvirt knows {files[base].path!r} by the "
            f"name {layers[base].path!r}, which leads to another file by now; shut the domain off first."
        )
    return False


__all__ = ["DiskFile", "create_snapshot", "merge_files", "name_disk"]
