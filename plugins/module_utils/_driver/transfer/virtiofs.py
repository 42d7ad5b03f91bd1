# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``virtiofs`` transfer driver (spec: virtiofs-datastore, "Considerations"). An image is a directory that each
host has at the same path. So nothing is transferred, and a disk is only metadata.
"""

from __future__ import annotations

from ..._core.records import TYPE_CHECKING
from .base import MIGRATION_ACTIONS, TransferDriver, TransferInfo

if TYPE_CHECKING:
    from ..._model.place import Place


class VirtiofsTransferDriver(TransferDriver):
    """The actions of a VM's start, move and end do nothing. All other actions are refused."""

    info = TransferInfo(
        "virtiofs",
        stores_data=False,
        is_shared=True,
        actions=frozenset({"clone", "ln", "mvds", "mv", "delete", *MIGRATION_ACTIONS}),
    )

    def clone(self, image: Place, disk: Place, vm: int) -> None:
        pass

    def ln(self, image: Place, disk: Place, vm: int) -> None:
        pass

    def mvds(self, disk: Place, image: str, vm: int) -> None:
        pass

    def mv(self, origin: Place, target: Place, vm: int) -> None:
        pass

    def delete(self, place: Place, vm: int) -> None:
        pass

    def premigrate(self, source: str, target: Place, vm: int) -> bool:
        return False

    def failmigrate(self, source: str, target: Place, vm: int) -> None:
        pass

    def postmigrate(self, source: str, target: Place, vm: int) -> None:
        pass


__all__ = ["VirtiofsTransferDriver"]
