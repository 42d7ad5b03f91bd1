# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way of a VM from one host to another: both hosts as they are, and what can't migrate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ..._core.errors import Conflict, VmstoreError
from ..._core.records import dataclass
from ..._driver.transfer import domain_migration_protocol
from ..._driver.transfer.domain_migration import Departure
from ..._driver.transfer.vm_host import DomainState
from ..._model.declared_vm import DeclaredVm
from ..._model.place import Place
from ..disk.actions import subject
from ..disk.known import KnownVms
from ..disk.transfers import Transfers
from ..disk.world import LOOK, World, ask_host
from .options import MigrateSpec


@dataclass(frozen=True)
class Route:
    """The way of one VM.

    :arg world: the hosts, which were looked at.
    :arg before: the VM at its host. ``after`` is the VM at the other host.
    :arg record: records the other host in the catalog.
    :arg log: is called with each line about the progress.
    """

    spec: MigrateSpec
    known: KnownVms
    world: World
    transfers: Transfers
    before: DeclaredVm
    after: DeclaredVm
    record: Callable[[], object]
    log: Callable[[str], object]

    @property
    def origin(self) -> Place:
        return self.known.place(self.before)

    @property
    def target(self) -> Place:
        return self.known.place(self.after)

    @property
    def is_shared(self) -> bool:
        """Return whether both hosts have the same directory of the VM."""
        return self.transfers.info(None, self.known.datastore_of(self.after)).is_shared

    def domains(self) -> tuple[DomainState | None, DomainState | None]:
        """Return the domain at both hosts.

        :raises LibvirtMissing: libvirt can't be used on a host.
        """
        return self.world.domain(self.origin), self.world.domain(self.target)

    def ask(self, place: Place, action: str, *arguments: Any) -> Any:
        """Return the result of an operation of :mod:`.domain_migration` on one of the hosts."""
        return ask_host(
            place.host, action, *arguments, log=self.log, timeout=2 * LOOK, protocol=domain_migration_protocol
        )

    def check_departure(self, *, is_live: bool) -> Departure:
        found: Departure = self.ask(self.origin, "check_departure", self.before.domain, self.origin.path, is_live)
        return found

    def reasons(self, departure: Departure, *, is_live: bool) -> list[str]:
        """Return the reasons of both hosts for which the domain can't migrate."""
        arrival = self.ask(self.target, "check_arrival", departure, self.target.path, is_live)
        reasons = [f"On the host {self.origin.host}: {reason}" for reason in departure.reasons]
        return reasons + [f"On the host {self.target.host}: {reason}" for reason in arrival]

    def require_nothing(self, reasons: list[str]) -> None:
        """Require that there are no reasons against the migration.

        :raises Conflict: with all reasons.
        """
        if reasons:
            raise Conflict(
                f"vm: {self.before.name!r} can't migrate from the host {self.origin.host!r} to {self.target.host!r}. "
                + " ".join(reasons)
            )

    def disks(self) -> list[dict[str, object]]:
        """Return the disks to copy, with the bytes of each."""
        if self.is_shared:
            return []
        found: list[dict[str, object]] = []
        for disk in self.known.disks(self.before.id).values():
            facts = self.world.disk(self.origin, disk.disk_id)
            found.append({"disk": disk.disk_id, "bytes": 0 if facts is None else facts.allocated})
        return found

    def lack_of_room(self) -> list[str]:
        """Return the disks for which the target lacks room, and the reason if it lacks the datastores."""
        reasons: list[str] = []
        with collected(reasons):
            self.world.require_datastore(self.target)
        for disk in [] if reasons or self.is_shared else self.known.disks(self.before.id).values():
            with collected(reasons):
                facts = self.world.disk(self.origin, disk.disk_id)
                if facts is not None:
                    self.world.take_room(self.target, facts.allocated, f"The {subject(self.after, disk)}")
        return reasons


class collected(contextlib.AbstractContextManager[None]):
    """Add an error in a block to a list of reasons."""

    def __init__(self, reasons: list[str]) -> None:
        self._reasons = reasons

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, VmstoreError):
            self._reasons.append(str(error))
            return True
        return False


__all__ = ["Route", "collected"]
