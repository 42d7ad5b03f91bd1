# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk of a running domain, and libvirt's jobs on the disk."""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

from .._core.errors import Conflict, InvalidInput, LibvirtFailed, NotFound, TimedOut
from .._core.records import dataclass
from .connection import Domain
from .devices.disk import file_names, find_disk, layers_of
from .domain_xml import attribute, parse

#: Time between two looks at a job, in seconds: the first and the longest.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 0.5

#: The receiver of a job's progress in bytes: those done, and all.
Progress = Callable[[int, int], object]

#: A job's progress as in :data:`Progress`; ``None`` if the job has ended.
Look = Callable[[], "tuple[int, int] | None"]

#: libvirt's numbers of the jobs on a disk (virDomainBlockJobType).
_JOBS = {1: "block pull", 2: "block copy", 3: "block commit", 4: "block commit", 5: "backup"}


@dataclass(frozen=True)
class Layer:
    """An open file of a running disk.

    :arg path: its path when libvirt opened it. A symbolic link leads to another file by now if the disk got a snapshot.
    :arg reference: its name in libvirt's calls, such as ``vda[2]``.
    """

    path: str
    reference: str


@dataclass(frozen=True)
class RunningDisk:
    """A disk of a running domain.

    :arg path: the disk's own path, which stays the same when the disk gets snapshots.
    :arg target: name of its device, such as ``vda``.
    """

    domain: Domain
    path: str
    target: str

    def __str__(self) -> str:
        return f"disk {self.target!r} of the domain {self.domain.name!r}"

    def calls(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """Convert libvirt's errors. ``doing`` names the attempt up to the disk, such as ``resize``."""
        return self.domain.calls(f"{doing} the disk {self.target!r} of")

    def layers(self) -> list[Layer]:
        """Return the open files of the disk, each before its backing file.

        :raises NotFound: the domain isn't running any more, or has the disk no longer.
        """
        element = _element(self.domain, self.path)
        return [
            Layer(
                attribute(one, "source", "file") or "",
                f"{self.target}[{one.get('index') or attribute(one, 'source', 'index')}]",
            )
            for one in layers_of(element)
        ]

    def capacity(self) -> int:
        """Return the size that the guest sees, in bytes."""
        with self.calls("look at"):
            return int(self.domain.handle.blockInfo(self.target)[0])

    def resize(self, size: int) -> None:
        """Let the guest see a disk of ``size`` bytes, which is more than before. The file grows with the disk.

        :raises InvalidInput: the disk is larger already. A guest would lose the end of its disk.
        :raises Conflict: a job is under way on the disk.
        """
        found = self.capacity()
        if size < found:
            raise InvalidInput("size", size, f"the {self} has {found} bytes and can't shrink while the domain runs")
        if size > found:
            self.check_idle()
            with self.calls("resize"):
                self.domain.handle.blockResize(self.target, size, self.domain.libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def check_idle(self) -> None:
        """Refuse a disk on which libvirt works already.

        :raises Conflict: a job is under way on the disk, or on the domain.
        """
        with self.calls("look at"):
            job = self.domain.handle.blockJobInfo(self.target)
            work = self.domain.handle.jobInfo()[0]
        if job:
            raise Conflict(
                f"The {self} has a {_JOBS.get(job['type'], 'job')} under way: wait for its end, or stop it with 'virsh "
                "blockjob --abort'."
            )
        if work != self.domain.libvirt.VIR_DOMAIN_JOB_NONE:
            raise Conflict(
                f"The domain {self.domain.name!r} has a job under way, such as a backup or a migration: wait for its "
                "end, or stop it with 'virsh domjobabort'."
            )


def find_running_disk(domain: Domain, path: str) -> RunningDisk:
    """Return the disk of a running domain by the disk's own path.

    :raises NotFound: the domain isn't running, or has no such disk.
    """
    return RunningDisk(domain, path, attribute(_element(domain, path), "target", "dev") or "")


def _element(domain: Domain, path: str) -> ET.Element:
    text = domain.running_xml()
    if text is None:
        raise NotFound(f"The domain {domain.name!r} does not run, so it has no running disk {path!r}.")
    element = find_disk(parse(text), file_names(path))
    if element is None:
        raise NotFound(f"The running domain {domain.name!r} has no disk with the file {path!r}.")
    return element


@contextlib.contextmanager
def aborted_on_error(disk: RunningDisk, abort: Callable[[], object]) -> Iterator[None]:
    """Stop a job on a disk, if the block that waits for the job fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(LibvirtFailed, NotFound), disk.calls("stop a job on"):
            abort()  # the job may have just ended, and the domain with it
        raise


def wait_for_job(doing: str, look: Look, deadline: float, progress: Progress | None = None) -> None:
    """Wait until a job of libvirt has ended.

    :arg doing: the job as the beginning of a message: ``Copying the disk``.
    :arg deadline: seconds.
    :raises TimedOut: the job was still under way at the deadline.
    """
    latest, pause = time.monotonic() + deadline, _SHORTEST_WAIT
    while True:
        found = look()
        if found is None:
            return
        if progress is not None:
            progress(*found)
        if time.monotonic() >= latest:
            raise TimedOut(f"{doing} did not end within {deadline:g} seconds and was stopped.")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_WAIT)


__all__ = ["Layer", "Progress", "RunningDisk", "aborted_on_error", "find_running_disk", "wait_for_job"]
