# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of a disk of a running domain, with its content at one moment."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET

from .._core.errors import LibvirtFailed
from .devices.disk import targets
from .domain_xml import parse, to_text
from .quiesce import quiesced
from .running_disk import Progress, RunningDisk, aborted_on_error, wait_for_job


def copy_disk(
    disk: RunningDisk,
    target: str,
    format: str,
    *,
    deadline: float,
    quiesce: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Copy the present content of a disk, with the content of its backing files, while the guest writes on.

    :arg target: an existing empty image of the disk's size. QEMU writes to it as its own user.
    :arg format: the format of ``target``. QEMU allocates every block of a raw target, also the zeros. A qcow2 target
        has the allocated data only.
    :arg deadline: seconds. Afterwards the copy is stopped.
    :arg quiesce: ``method`` of :func:`quiesced`, for the moment at which the copy begins; ``None`` is a copy as after a
        power failure.
    :raises Conflict: a job is under way on the disk.
    :raises TimedOut: the deadline has passed. ``target`` is incomplete.
    :raises LibvirtFailed: the disk can't be read, or ``target`` can't be written.
    """
    disk.check_idle()
    handle, names = disk.domain.handle, disk.domain.libvirt
    text = _backup_xml(disk, target, format)
    with contextlib.ExitStack() as stack:
        with quiesced(disk.domain, method=quiesce) if quiesce else contextlib.nullcontext():
            with disk.calls("copy"):
                handle.backupBegin(text, None, names.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
            stack.enter_context(aborted_on_error(disk, handle.abortJob))

        def look() -> tuple[int, int] | None:
            with disk.calls("look at"):
                job = handle.jobStats(0)
            return None if job["type"] == names.VIR_DOMAIN_JOB_NONE else _progress(job)

        wait_for_job(f"Copying the {disk}", look, deadline, progress)
    with disk.calls("copy"):
        done = handle.jobStats(names.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if done["type"] != names.VIR_DOMAIN_JOB_COMPLETED:
        reason = done.get("errmsg") or "the copy was stopped"
        raise LibvirtFailed(f"libvirt could not copy the {disk} to {target!r}: {reason}.")


def _progress(job: dict[str, int]) -> tuple[int, int]:
    return job.get("disk_processed", 0), job.get("disk_total", 0)


def _backup_xml(disk: RunningDisk, target: str, format: str) -> str:
    root = ET.Element("domainbackup", {"mode": "push"})
    disks = ET.SubElement(root, "disks")
    for name in targets(parse(disk.domain.running_xml() or "<domain><devices/></domain>")):
        element = ET.SubElement(disks, "disk", {"name": name, "backup": "no"})
        if name == disk.target:
            element.attrib.update(backup="yes", type="file")
            ET.SubElement(element, "driver", {"type": format})
            ET.SubElement(element, "target", {"file": target})
    return to_text(root)


__all__ = ["copy_disk"]
