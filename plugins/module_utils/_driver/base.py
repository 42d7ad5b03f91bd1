# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every datastore driver is asked, and how it declares what it can do (spec: storage-driver, "Datastore Drivers")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .._catalog.datastores import Datastore
from .._core.errors import UnsupportedAction

#: Actions that a driver need not have, in alphabetical order.
OPTIONAL_ACTIONS = ("backup", "clone", "disk-attach", "mkfs", "resize", "save-as", "snapshot")

#: Seconds for one question to a file system.
TIMEOUT = 300


@dataclass(frozen=True)
class DriverInfo:
    """What a driver can do. Services ask this record, never the driver's name."""

    name: str
    #: The types of datastore it serves, and of images it registers.
    datastore_types: frozenset[str]
    image_types: frozenset[str]
    #: The transfer drivers it works with.
    tm_drivers: tuple[str, ...]
    #: Which of :data:`OPTIONAL_ACTIONS` it has.
    actions: frozenset[str] = frozenset()
    #: Further attributes that a datastore of it may have.
    attributes: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Capacity:
    """Of a datastore, in MiB."""

    used_mb: int
    free_mb: int
    total_mb: int


@dataclass(frozen=True)
class CopiedImage:
    """What ``cp`` answers: where the image's data is, its format, and its size in MiB, rounded up."""

    source: str
    format: str
    size_mb: int


class DatastoreDriver:
    """Acts on one datastore.

    :arg protected: directories that images must never be made of, besides those that the driver and the datastore restrict.
    :arg timeout: seconds instead of :data:`TIMEOUT`.
    """

    info: DriverInfo

    def __init__(self, datastore: Datastore, *, protected: Sequence[str] = (), timeout: float = TIMEOUT) -> None:
        self.datastore = datastore
        self.protected = protected
        self.timeout = timeout

    def require(self, action: str) -> None:
        """Refuse an optional action that this driver doesn't have.

        :raises UnsupportedAction: naming the action and the driver.
        """
        if action not in self.info.actions:
            raise UnsupportedAction(f"{action} is not supported by the {self.info.name} driver.")

    def check(self, path: str) -> None:
        """Refuse what no image may be made of or, since the rules may have changed, be used from. ``path`` is resolved.

        :raises PathNotAllowed: naming the restricted directory.
        """

    def cp(self, path: str) -> CopiedImage:
        """Register what is at ``path`` as an image."""
        raise UnsupportedAction(f"cp is not supported by the {self.info.name} driver.")

    def stat(self, path: str) -> int:
        """The size in MiB, rounded up, that an image made of ``path`` would have."""
        raise UnsupportedAction(f"stat is not supported by the {self.info.name} driver.")

    def rm(self, source: str) -> None:
        """Remove an image's data. Doing it twice is the same as once."""
        raise UnsupportedAction(f"rm is not supported by the {self.info.name} driver.")

    def monitor(self) -> Capacity:
        """How much the datastore holds and can hold."""
        raise UnsupportedAction(f"monitor is not supported by the {self.info.name} driver.")


__all__ = ["OPTIONAL_ACTIONS", "TIMEOUT", "Capacity", "CopiedImage", "DatastoreDriver", "DriverInfo"]
