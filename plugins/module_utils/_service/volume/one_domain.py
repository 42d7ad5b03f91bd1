# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of one domain's disks and volumes in KubeVirt's model (spec: kubevirt-disks-and-volumes)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ..._core.errors import DependencyMissing, UnsupportedAction, VmstoreError
from ..._core.plan import Action, Plan
from ..domain_restart import finish, read_restart
from ..host_lock import libvirt_lock
from ..service import Service
from .host import VolumesHost
from .layers import LayerState
from .options import VolumesOptions
from .plan import VolumesPlan
from .planner import DomainPlanner


class OneDomain(Service):
    """Plans the disks and volumes of one domain.

    :arg host: this host, which several domains share.
    """

    def __init__(self, options: VolumesOptions, host: VolumesHost) -> None:
        self.options = options
        self._host = host

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return libvirt_lock()

    def plan(self) -> VolumesPlan:
        plan, planner = self._begin()
        bases, pulls = planner.container_disks(self.log).look()
        volumes = planner.data_volumes(self.log)
        before = [*pulls, *volumes.look()]
        try:
            planner.plan_all(bases, volumes.imported)
        except DependencyMissing as error:
            if not before:
                raise
            self.report_missing(plan, error)
        plan.actions = [*before, *plan.actions]
        if self.options.purge and self.is_dry_run:
            plan.actions += volumes.remove_outdated(is_dry_run=True).actions
        return plan

    def _begin(self) -> tuple[VolumesPlan, DomainPlanner]:
        """Return an empty plan and its planner, which has checked the declaration."""
        domain = self._host.hypervisor.domain(self.options.domain)
        if not domain.is_persistent:
            raise UnsupportedAction(
                f"The domain {domain.name!r} is transient, so that no definition can keep its volumes: define it first."
            )
        plan = VolumesPlan()
        plan.restart = read_restart(domain, self.options.restart, self.options.restart_timeout)
        return plan, DomainPlanner(self._host, self.options, plan, domain, is_dry_run=self.is_dry_run)

    def dry_run(self) -> Plan:
        plan = super().dry_run()
        if isinstance(plan, VolumesPlan):
            plan.show_all()
        return plan

    def converge(self) -> VolumesPlan:
        """Reach the desired state, and return the plan that was run.

        Images are pulled and imported before the lock is taken, because that takes long and changes no domain.
        """
        self.will_run = True
        bases, before, imported = self._obtain_images() if self._has_images else ({}, [], frozenset())
        with self.exclusive():
            plan, planner = self._begin()
            planner.plan_all(bases, imported)
            if plan.changed:
                # The writers to the data may have been read before this lock was taken, for an earlier domain.
                self._host.forget()
                plan, planner = self._begin()
                planner.plan_all(bases, imported)
            plan.run()
        if plan.changed:
            self._host.forget()
        plan.actions = [*before, *plan.actions]
        finish(plan, self.exclusive, self.plan)
        if self.options.purge:
            self._remove_outdated(plan, planner)
        return plan

    def _remove_outdated(self, plan: VolumesPlan, planner: DomainPlanner) -> None:
        """Remove the images that go with the domain and aren't declared any more, and then their record.

        :raises VmstoreError: an image can't be removed, and nothing has changed.
        :raises PartlyDone: an image can't be removed, and something has changed.
        """
        volumes = planner.data_volumes(self.log)
        removal = volumes.remove_outdated(is_dry_run=False)
        plan.actions += removal.actions
        plan.errors += removal.errors
        try:
            with self.exclusive():
                planner.forget_data_volumes(volumes.find_removed())
        except VmstoreError as error:
            plan.errors.append(error)
        plan.raise_errors()

    def plan_unknown(self) -> Plan:
        return Plan(result={"domain": self.options.domain})

    @property
    def _has_images(self) -> bool:
        """Return whether the declaration can have container disks or data volumes."""
        declared = self.options.declaration
        keys = {key for one in declared.get("volumes", ()) if isinstance(one, Mapping) for key in one}
        return bool(keys & {"container_disk", "containerDisk"} or declared.get("data_volume_templates"))

    def _obtain_images(self) -> tuple[dict[str, LayerState], list[Action], frozenset[str]]:
        """Pull and import what is missing. Return the bases of container disks, what was done, and the names of the
        imported images.
        """
        _plan, planner = self._begin()
        bases, pulls = planner.container_disks(self.log).obtain()
        volumes = planner.data_volumes(self.log)
        return bases, [*pulls, *volumes.create()], volumes.imported


__all__ = ["OneDomain"]
