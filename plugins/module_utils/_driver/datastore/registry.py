# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The registry of datastore drivers: the only place that chooses a class. Only the chosen class is loaded.

The transfer drivers have a registry of their own, because Ansible sends each module with all that it can import.
"""

from __future__ import annotations

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ..._model.datastore import Datastore
    from .base import DatastoreDriver

#: The names of the datastore drivers, in alphabetical order.
DATASTORE_DRIVERS = ("fs", "virtiofs")


def driver_class(name: str | None, *, is_bridged: bool = False) -> type[DatastoreDriver]:
    """Return the class of the datastore driver ``name``. System datastores have ``None`` for a name.

    :arg is_bridged: whether the datastore has a BRIDGE_LIST.
    :raises InvalidInput: there is no driver of this name.
    """
    if name is None:
        if is_bridged:
            from .bridge import BridgedSystemDriver

            return BridgedSystemDriver
        from .directory import SystemDriver

        return SystemDriver
    if name == "virtiofs":  # this driver contacts the hosts of a BRIDGE_LIST itself
        from .virtiofs import VirtiofsDriver

        return VirtiofsDriver
    if name != "fs":
        raise InvalidInput("ds_driver", name, f"one of {', '.join(DATASTORE_DRIVERS)} is expected")
    if is_bridged:
        from .bridge import BridgedFsDriver

        return BridgedFsDriver
    from .fs import FsDriver

    return FsDriver


def class_for(datastore: Datastore) -> type[DatastoreDriver]:
    """Return the class of the driver of a datastore.

    :raises InvalidInput: see :func:`driver_class`.
    """
    return driver_class(datastore.ds_driver, is_bridged=bool(datastore.bridge_list))


def new_driver(datastore: Datastore, **options: Any) -> DatastoreDriver:
    """Return the driver of a datastore.

    :arg options: see :class:`DatastoreDriver`.
    :raises InvalidInput: see :func:`driver_class`.
    """
    return class_for(datastore)(datastore, **options)


__all__ = ["DATASTORE_DRIVERS", "class_for", "driver_class", "new_driver"]
