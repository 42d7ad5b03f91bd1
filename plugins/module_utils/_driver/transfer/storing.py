# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions that all transfer drivers with data on hosts have in common."""

from __future__ import annotations

import os

from ..._core.errors import Conflict, HostUnreachable, InvalidInput, NotFound
from ..._core.records import TYPE_CHECKING
from ..._image.image_file import LARGEST
from ..._image.vm_directory import parse_disk_path
from ..._image.vm_disk import DiskRecord
from ..._model.vm import DISK_RESIZE, DISK_SNAPSHOT_DELETE, HOTPLUG_SAVEAS
from . import hosts
from .live_disks import RunningVm
from .migrating import MigratingDriver
from .operations import Placement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._model.place import Place
    from ..._model.vm import VmDisk

#: Bytes of a MiB, the unit of sizes in facts and arguments.
MEBIBYTE = 2**20

#: The ways in which a guest stops writing, by the FS_FREEZE of a front-end.
QUIESCE = {"AGENT": "agent", "SUSPEND": "suspend"}

#: Prefix of the name of a disk. The other files that actions name are a kernel and an initial RAM disk.
DISK = "disk."


class StoringDriver(MigratingDriver):
    """A transfer driver that places data on hosts."""

    #: Whether a snapshot of a qcow2 file without layers is a whole copy.
    _copies_whole = False

    def _facts(self, disk: Place, vm: int) -> VmDisk:
        """Return the facts about a disk.

        :raises InvalidInput: the path isn't that of a disk. :raises NotFound: the VM has no such disk.
        """
        name = parse_disk_path(disk.path, option="disk").name
        if not name.startswith(DISK):
            raise InvalidInput("disk", disk.path, "a path that ends in disk.<disk id> is expected")
        return self.facts.vm(vm).disk(int(name[len(DISK) :]))

    def _record(self, disk: Place, vm: int) -> DiskRecord:
        """Return the record of a disk, by which its host recognises the files."""
        return DiskRecord(disk.path, self._facts(disk, vm).require_format())

    @property
    def _monitor(self) -> str | None:
        """Return the content of the file that names the driver in a system datastore."""
        return None if self.info.is_shared else self.system_driver

    def mv(self, origin: Place, target: Place, vm: int) -> None:
        if os.path.basename(target.path).startswith(DISK):
            return  # the directory comes later, with all disks
        if not self._is_move(origin, target):
            return
        try:
            self._move_directory(origin, target)
        except HostUnreachable:
            if not self.facts.vm(vm).is_host_gone:
                raise
            self.log(f"The files of the VM {vm} stay on {origin.host}, because that host is gone.")
        except NotFound:
            if not self._run(target.host, "has_directory", target.path):
                raise
            self.log(f"{target} is in its place already.")

    def _is_move(self, origin: Place, target: Place) -> bool:
        return origin.path != target.path or not hosts.is_same_host(origin.host, target.host)

    def _move_directory(self, origin: Place, target: Place) -> None:
        if hosts.is_same_host(origin.host, target.host):
            self._run(origin.host, "move_directory", origin.path, target.path, self._monitor)
        elif hosts.is_this_host(target.host):
            hosts.receive_directory(origin, target.path, self._monitor, log=self.log)
        else:
            self._run(origin.host, "push_directory", origin.path, target.host, target.path, self._monitor)

    def snap_create(self, disk: Place, snapshot: int, vm: int) -> None:
        self._run(disk.host, "snap_create", self._record(disk, vm), snapshot, self._copies_whole)

    def snap_create_live(self, disk: Place, snapshot: int, vm: int) -> None:
        running = self._running(vm)
        if running is None:
            raise Conflict(f"The VM {vm} has no domain, so {disk} can't get a snapshot while the VM runs.")
        self._run(disk.host, "snap_create_live", self._record(disk, vm), snapshot, self._copies_whole, running)

    def snap_delete(self, disk: Place, snapshot: int, vm: int) -> None:
        running = self._running(vm, DISK_SNAPSHOT_DELETE)
        self._run(disk.host, "snap_delete", self._record(disk, vm), snapshot, running)

    def _saving(self, vm: int) -> RunningVm | None:
        """Return the domain of a VM that runs while a disk is saved as an image."""
        return self._running(vm, HOTPLUG_SAVEAS)

    def _running(self, vm: int, *states: int) -> RunningVm | None:
        """Return the domain of a VM in one of ``states``, or ``None``. Without states, any state is accepted."""
        facts = self.facts.vm(vm)
        if facts.deploy_id is None or (states and facts.lcm_state not in states):
            return None
        return RunningVm(facts.deploy_id, QUIESCE.get(facts.backup.fs_freeze or "", "auto"))

    def snap_revert(self, disk: Place, snapshot: int, vm: int) -> None:
        self._run(disk.host, "snap_revert", self._record(disk, vm), snapshot)

    def context(self, files: Mapping[str, str], disk: Place, vm: int) -> None:
        from .context_image import context_image

        name = os.path.basename(disk.path)
        with context_image(files, name) as source:
            placement = Placement(disk.path, name, "raw", monitor=self._monitor, may_be_used=True)
            hosts.push(disk.host, "place", placement, source=source, log=self.log)

    def delete(self, place: Place, vm: int) -> None:
        self._run(place.host, "remove", place.path)

    def mkimage(self, size_mb: int, image_format: str, disk: Place, vm: int) -> None:
        facts = self._facts(disk, vm)
        self._make(disk, image_format, size_mb, facts.fs, facts.is_sparse)

    def mkswap(self, size_mb: int, disk: Place, vm: int) -> None:
        self._make(disk, "raw", size_mb, "swap", True)

    def _make(self, disk: Place, image_format: str, size_mb: int, fs: str | None, sparse: bool) -> None:
        options = {
            "format": image_format,
            "size_mb": size_mb,
            "fs": fs,
            "supported": list(self.settings.supported_fs),
            "fs_options": self.settings.fs_options.get(fs or "", ""),
            "qcow2_options": self.settings.qcow2_options,
            "sparse": sparse,
        }
        self._run(disk.host, "make", disk.path, options)

    def resize(self, disk: Place, size_mb: int, vm: int) -> None:
        if self.facts.vm(vm).lcm_state == DISK_RESIZE:
            return  # the hypervisor resizes a disk of a running VM itself
        self._run(disk.host, "grow", self._record(disk, vm), size_in_bytes(size_mb))


def size_in_bytes(size_mb: int) -> int:
    """Return the size of a disk in bytes.

    :raises InvalidInput: the size is larger than that of any disk.
    """
    if size_mb > LARGEST // MEBIBYTE:
        raise InvalidInput("size", size_mb, f"at most {LARGEST // MEBIBYTE} MiB are expected")
    return size_mb * MEBIBYTE


__all__ = ["DISK", "StoringDriver", "size_in_bytes"]
