# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface by which transfer drivers learn facts about VMs, datastores and hosts.

The arguments of an action have only ids and paths. The other facts come from the catalog, or from a front-end.
"""

from __future__ import annotations

from ..._core.records import TYPE_CHECKING

if TYPE_CHECKING:
    from ..._model.datastore import Datastore
    from ..._model.vm import Host, Vm


class VmFacts:
    """The facts of one action. A source of facts is a subclass.

    A source reads a fact only when a driver asks for it, and reads each fact once. So all facts of an action are of
    the same time, and an action without questions costs nothing.
    """

    def vm(self, vm_id: int) -> Vm:
        """Return a VM.

        :raises NotFound: there is no such VM.
        :raises InvalidInput: a required element of the VM is missing or can't be used.
        :raises VmstoreError: the source can't be read.
        """
        raise NotImplementedError

    def previous_datastore(self, vm_id: int) -> int | None:
        """Return the system datastore in which a VM was before the last migration. ``None`` if there was none.

        The errors are those of :meth:`vm`.
        """
        raise NotImplementedError

    def datastore(self, datastore_id: int) -> Datastore:
        """Return a datastore. Its attributes include ``replica_host``.

        The errors are those of :meth:`vm`.
        """
        raise NotImplementedError

    def host(self, name: str) -> Host:
        """Return a host by its name.

        The errors are those of :meth:`vm`.
        """
        raise NotImplementedError


__all__ = ["VmFacts"]
