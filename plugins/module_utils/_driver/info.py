# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The capability record of a driver."""

from __future__ import annotations

from .._core.records import dataclass

#: Actions that a driver need not have, in alphabetical order. ``content`` reads an image's data on this host.
OPTIONAL_ACTIONS = ("clone", "content", "export", "mkfs", "resize", "snapshot")

#: The actions that a front-end calls, each by a script of its name (spec: storage-driver).
CONTRACT_ACTIONS = (
    "clone",
    "cp",
    "export",
    "increment_flatten",
    "mkfs",
    "monitor",
    "rm",
    "snap_delete",
    "snap_flatten",
    "snap_revert",
    "stat",
)


@dataclass(frozen=True)
class DriverInfo:
    """The abilities of a driver. Services read this record, never the driver's name or its datastore's attributes.

    :arg datastore_types: the types of datastores that the driver serves.
    :arg image_types: the types of images that the driver registers.
    :arg tm_drivers: the transfer drivers that the driver works with.
    :arg stores_data: whether the driver creates and removes the data of images. Otherwise the data belongs to the user.
    :arg is_directory: whether the datastore is a directory, which may be on a shared file system.
    :arg actions: the entries of :data:`OPTIONAL_ACTIONS` that the driver has.
    :arg attributes: further attributes that a datastore of the driver may have.
    """

    name: str
    datastore_types: frozenset[str]
    image_types: frozenset[str]
    tm_drivers: tuple[str, ...]
    stores_data: bool = True
    is_directory: bool = False
    actions: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()


__all__ = ["CONTRACT_ACTIONS", "OPTIONAL_ACTIONS", "DriverInfo"]
