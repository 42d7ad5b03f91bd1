# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry of transfer drivers: the only place that chooses a class. Only the chosen class is loaded."""

from __future__ import annotations

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import TransferDriver

#: The names of the transfer drivers. ``qcow2`` is another name of ``shared``.
SHARED_TRANSFER_DRIVERS = ("shared", "qcow2")
TRANSFER_DRIVERS = ("ssh", "local", *SHARED_TRANSFER_DRIVERS, "virtiofs")

#: The transfer drivers of system datastores that can have disks of images on shared storage (spec: storage-driver,
#: "Mixed Transfer modes").
MIXED_SYSTEM_DRIVERS = ("ssh", "local")

#: The transfer drivers whose system datastores are directories of each host. So each host monitors its own (spec:
#: storage-driver, "The Monitoring Process").
MONITORED_BY_HOSTS = ("ssh", "local")


def transfer_class(name: str, system_driver: str | None = None) -> type[TransferDriver]:
    """Return the class of the transfer driver ``name``.

    :arg system_driver: the transfer driver of the system datastore, in mixed mode.
    :raises InvalidInput: there is no driver of this name.
    """
    if name == "virtiofs":
        from .virtiofs import VirtiofsTransferDriver

        return VirtiofsTransferDriver
    if name == "ssh":
        from .ssh import SshTransferDriver

        return SshTransferDriver
    if name == "local" or (name in SHARED_TRANSFER_DRIVERS and system_driver in MIXED_SYSTEM_DRIVERS):
        from .local import LocalTransferDriver

        return LocalTransferDriver
    if name in SHARED_TRANSFER_DRIVERS:
        from .shared import SharedTransferDriver

        return SharedTransferDriver
    raise InvalidInput("tm_driver", name, f"one of {', '.join(TRANSFER_DRIVERS)} is expected")


def transfer_scripts(name: str) -> tuple[str, ...]:
    """Return the names of the scripts of a transfer driver. In mixed mode, a name is ``<action>.<system driver>``."""
    from .base import TRANSFER_ACTIONS

    system_drivers = MIXED_SYSTEM_DRIVERS if name in SHARED_TRANSFER_DRIVERS else ()
    mixed = (f"{action}.{driver}" for driver in system_drivers for action in TRANSFER_ACTIONS)
    return (*TRANSFER_ACTIONS, *mixed, *(["monitor"] if is_for_system_datastores(name) else []))


def is_for_system_datastores(name: str) -> bool:
    """Return whether a system datastore can have the transfer driver ``name``."""
    return name in (*SHARED_TRANSFER_DRIVERS, *MONITORED_BY_HOSTS)


__all__ = [
    "MIXED_SYSTEM_DRIVERS",
    "MONITORED_BY_HOSTS",
    "SHARED_TRANSFER_DRIVERS",
    "TRANSFER_DRIVERS",
    "is_for_system_datastores",
    "transfer_class",
    "transfer_scripts",
]
