# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of an export: a directory of this host in a libvirt domain (spec: virtiofs-datastore).

An export is a device in the definition, a device in the running domain, and an attachment in the catalog.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..._core.errors import LibvirtMissing
from ..._libvirt.connection import Hypervisor
from ..domain_restart import RestartPlan, finish, read_restart
from ..host_lock import libvirt_lock
from ..service import Service
from .absent import plan_absent
from .options import parse_options
from .present import plan_present
from .resolve import foretell_device


class VirtiofsExportService(Service):
    """Plans one virtiofs device of one domain."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.spec = parse_options(options)
        self._hypervisor: Hypervisor | None = None

    @property
    def hypervisor(self) -> Hypervisor:
        if self._hypervisor is None:
            self._hypervisor = Hypervisor(self.spec.uri)
        return self._hypervisor

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return libvirt_lock()

    def plan(self) -> RestartPlan:
        plan = RestartPlan()
        try:
            domain = self.hypervisor.find_domain(self.spec.domain)
        except LibvirtMissing as error:
            if self.spec.is_present or not self.is_dry_run:
                raise
            # Nothing is to be removed, because without libvirt there are no domains.
            self.report_missing(plan, error, is_planned=True)
            plan.result.update(self.plan_unknown().result)
            return plan
        plan.restart = read_restart(domain, self.spec.restart, self.spec.restart_timeout)
        if self.spec.is_present:
            plan_present(plan, self.spec, self.hypervisor, is_dry_run=self.is_dry_run)
        else:
            plan_absent(plan, self.spec, self.hypervisor)
        plan.add_restart()
        return plan

    def converge(self) -> RestartPlan:
        with self.exclusive():
            plan = self.plan()
            plan.run()
        finish(plan, self.exclusive, self.plan)
        return plan

    def plan_unknown(self) -> RestartPlan:
        plan = RestartPlan()
        device = foretell_device(self.spec) if self.spec.is_present else None
        plan.result.update(domain=self.spec.domain, device=device)
        return plan


__all__ = ["VirtiofsExportService"]
