# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of a transfer driver (spec: storage-driver, "TM Drivers Structure")."""

from __future__ import annotations

from ..._core.errors import UnsupportedAction
from ..._core.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from ..._model.place import Place
    from ..datastore.base import Settings
    from .facts import VmFacts

#: The actions around a live migration. They get the VM on standard input.
MIGRATION_ACTIONS = ("premigrate", "failmigrate", "postmigrate")

#: The actions that a front-end calls, each by a script of its name, in the order of the specification.
TRANSFER_ACTIONS = (
    "clone",
    "ln",
    "mvds",
    "cpds",
    "mv",
    "snap_create",
    "snap_create_live",
    "snap_delete",
    "snap_revert",
    "context",
    "delete",
    "mkimage",
    "mkswap",
    "resize",
    *MIGRATION_ACTIONS,
)


@dataclass(frozen=True)
class TransferInfo:
    """The abilities of a transfer driver.

    :arg stores_data: whether the driver places data on hosts. Otherwise a disk is only metadata.
    :arg is_shared: whether the hosts see the same directories as the front-end.
    :arg has_overlays: whether the clone of a qcow2 image can be an overlay on the image.
    :arg actions: the entries of :data:`TRANSFER_ACTIONS` that the driver has.
    """

    name: str
    stores_data: bool = True
    is_shared: bool = False
    has_overlays: bool = False
    actions: frozenset[str] = frozenset(TRANSFER_ACTIONS)


class TransferDriver:
    """The driver of the disks of VMs. Here, every action raises :class:`UnsupportedAction`.

    Each action can be repeated. A failed action leaves the old state of its files, or the new one.

    :arg facts: the source of what the arguments of an action don't have.
    :arg settings: the settings of the front-end for new images.
    :arg system_driver: the transfer driver of the system datastore. The default is this driver.
    :arg log: is called with each line about the progress.
    """

    info: TransferInfo

    def __init__(
        self,
        facts: VmFacts,
        settings: Settings,
        *,
        system_driver: str | None = None,
        log: Callable[[str], object] = str,
    ) -> None:
        self.facts = facts
        self.settings = settings
        self.system_driver = system_driver or self.info.name
        self.log = log

    def _unsupported(self, action: str) -> NoReturn:
        raise UnsupportedAction(f"{action} is not supported by the transfer driver {self.info.name}.")

    def clone(self, image: Place, disk: Place, vm: int) -> None:
        """Create a disk as a copy of an image, or as a qcow2 overlay on it."""
        self._unsupported("clone")

    def ln(self, image: Place, disk: Place, vm: int) -> None:
        """Create a disk whose data will replace the data of the image in :meth:`mvds`."""
        self._unsupported("ln")

    def mvds(self, disk: Place, image: str, vm: int) -> None:
        """Replace the data of the image ``image`` on the front-end by that of a disk, and remove the disk."""
        self._unsupported("mvds")

    def cpds(self, disk: Place, image: str, snapshot: int | None, vm: int) -> None:
        """Create the image ``image`` on the front-end with the data of a disk, or of a snapshot of the disk."""
        self._unsupported("cpds")

    def mv(self, origin: Place, target: Place, vm: int) -> None:
        """Move a disk, or the directory of a VM, to another host or system datastore."""
        self._unsupported("mv")

    def snap_create(self, disk: Place, snapshot: int, vm: int) -> None:
        """Create a snapshot of a disk that isn't in use."""
        self._unsupported("snap_create")

    def snap_create_live(self, disk: Place, snapshot: int, vm: int) -> None:
        """Create a snapshot of a disk of a running VM."""
        self._unsupported("snap_create_live")

    def snap_delete(self, disk: Place, snapshot: int, vm: int) -> None:
        """Remove a snapshot. The disk and its other snapshots keep their content."""
        self._unsupported("snap_delete")

    def snap_revert(self, disk: Place, snapshot: int, vm: int) -> None:
        """Replace the data of a disk by that of a snapshot. The snapshot stays."""
        self._unsupported("snap_revert")

    def context(self, files: Mapping[str, str], disk: Place, vm: int) -> None:
        """Create an ISO image with files of the front-end.

        :arg files: paths by the names in the image.
        """
        self._unsupported("context")

    def delete(self, place: Place, vm: int) -> None:
        """Remove a disk, or the directory of a VM."""
        self._unsupported("delete")

    def mkimage(self, size_mb: int, image_format: str, disk: Place, vm: int) -> None:
        """Create an empty disk, perhaps with a file system."""
        self._unsupported("mkimage")

    def mkswap(self, size_mb: int, disk: Place, vm: int) -> None:
        """Create a disk with swap space."""
        self._unsupported("mkswap")

    def resize(self, disk: Place, size_mb: int, vm: int) -> None:
        """Grow a disk that isn't in use."""
        self._unsupported("resize")

    def premigrate(self, source: str, target: Place, vm: int) -> bool:
        """Prepare the directory of a running VM on the host to which the VM will migrate. Return whether libvirt copies
        the disks. It must not copy them if both hosts have the same directory.

        :arg source: the host of the VM. ``target`` is the VM directory on the other host.
        """
        self._unsupported("premigrate")

    def failmigrate(self, source: str, target: Place, vm: int) -> None:
        """Undo :meth:`premigrate` after a failed migration. The VM runs on at the source."""
        self._unsupported("failmigrate")

    def postmigrate(self, source: str, target: Place, vm: int) -> None:
        """Remove what the source doesn't need any more after a migration."""
        self._unsupported("postmigrate")


__all__ = ["MIGRATION_ACTIONS", "TRANSFER_ACTIONS", "TransferDriver", "TransferInfo"]
