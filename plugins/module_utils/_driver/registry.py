# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which drivers there are."""

from __future__ import annotations

from .._core.errors import InvalidInput
from .datastore.base import DatastoreDriver
from .datastore.directory import SystemDriver
from .datastore.fs import FsDriver
from .datastore.virtiofs import VirtiofsDriver

DATASTORE_DRIVERS: dict[str, type[DatastoreDriver]] = {
    driver.info.name: driver for driver in (FsDriver, VirtiofsDriver)
}


def datastore_driver(name: str | None) -> type[DatastoreDriver]:
    """The driver called ``name``; ``None`` asks for the one of system datastores.

    :raises InvalidInput: there is none of that name.
    """
    if name is None:
        return SystemDriver
    if name not in DATASTORE_DRIVERS:
        raise InvalidInput("ds_driver", name, f"one of {', '.join(sorted(DATASTORE_DRIVERS))} is expected")
    return DATASTORE_DRIVERS[name]


__all__ = ["DATASTORE_DRIVERS", "datastore_driver"]
