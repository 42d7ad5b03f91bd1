# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The VMs of the catalog and their disks, as a user declares them. Transfer drivers read them as :mod:`.vm`."""

from __future__ import annotations

from .._core.records import dataclass

#: States of a VM and of a disk. ``new``: the data is being created, or a killed run began to. ``ready``: the data is
#: complete. ``leaving``: the data is being removed, or goes back to its datastore.
NEW, READY, LEAVING = "new", "ready", "leaving"
STATES = (NEW, READY, LEAVING)


@dataclass(frozen=True)
class DeclaredVm:
    """A row of the catalog: a VM and its place.

    :arg domain: the name of the domain in libvirt.
    :arg host: the name of the host with the VM's directory.
    :arg datastore_id: the system datastore with the VM's directory.
    """

    id: int
    name: str
    domain: str
    host: str
    datastore_id: int
    state: str = READY

    def __str__(self) -> str:
        return f"the VM {self.name!r} on the host {self.host!r}"


@dataclass(frozen=True)
class DeclaredDisk:
    """A row of the catalog: a disk of a VM. Sizes are in MiB.

    :arg disk_id: the number in the name ``disk.<id>``.
    :arg type: ``file`` or ``cdrom`` for a disk of an image, ``fs`` for an empty disk, ``swap`` for swap space.
    :arg persistent: whether the data goes back to the image when the disk is removed.
    :arg linked: whether the disk is a qcow2 overlay that needs the data of the image.
    :arg fs: the file system that was created in an empty disk.
    :arg target: the name of the device in the domain, such as ``vda``; ``None`` for a disk that isn't attached.
    """

    vm_id: int
    disk_id: int
    type: str
    format: str
    size_mb: int
    image_id: int | None = None
    persistent: bool = False
    linked: bool = False
    fs: str | None = None
    target: str | None = None
    bus: str | None = None
    read_only: bool = False
    shareable: bool = False
    state: str = READY

    @property
    def clone(self) -> str | None:
        """Return how the disk was cloned, ``linked`` or ``full``; ``None`` for a disk that is no clone."""
        return None if self.image_id is None or self.persistent else "linked" if self.linked else "full"

    @property
    def needs_image(self) -> bool:
        """Return whether the disk is lost or changed with the data of its image."""
        return self.persistent or self.linked


@dataclass(frozen=True)
class DeclaredSnapshot:
    """A row of the catalog: a snapshot of a disk.

    :arg id: the number of the snapshot, which is unique for the disk.
    :arg is_active: whether the disk continues from this snapshot.
    """

    vm_id: int
    disk_id: int
    id: int
    name: str
    is_active: bool = False


__all__ = ["LEAVING", "NEW", "READY", "STATES", "DeclaredDisk", "DeclaredSnapshot", "DeclaredVm"]
