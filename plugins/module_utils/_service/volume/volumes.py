# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of the disks and volumes of one domain or of many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..._core.errors import InvalidDeclaration, InvalidInput, PartlyDone, VmstoreError
from ..._core.plan import Plan
from ..._core.problems import MOST_PROBLEMS
from ..._core.records import replace
from ..service import Service
from .host import VolumesHost
from .one_domain import OneDomain
from .options import parse_domains, parse_options


class DomainVolumesService(Service):
    """Plans the domain of the options, or each domain of the list ``domains``.

    A domain that fails doesn't keep the others from their volumes, and fails the run at its end.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._is_list = options["domains"] is not None
        host = VolumesHost(options["uri"])
        found = parse_domains(options) if self._is_list else [parse_options(options)]
        self._domains = [OneDomain(one, host) for one in found]

    def dry_run(self) -> Plan:
        return self._run_all("dry_run")

    def converge(self) -> Plan:
        return self._run_all("converge")

    def _run_all(self, mode: str) -> Plan:
        """Call a method of each domain's service, and return one plan of all.

        :raises PartlyDone: some of several domains failed.
        """
        if not self._is_list:
            self._domains[0].log = self.log
            return getattr(self._domains[0], mode)()  # type: ignore[no-any-return]
        plan, results, errors = Plan(), [], []
        for place, service in enumerate(self._domains):
            service.log = self.log
            try:
                done = getattr(service, mode)()
            except VmstoreError as error:
                if isinstance(error, PartlyDone):
                    plan.actions += cast(Plan, error.plan).actions
                errors.append(_locate(error, place, service.options.domain))
                continue
            results.append(done.result)
            plan.actions += done.actions
            for warning in done.warnings:
                plan.warn_once(warning)
        plan.result["domains"] = results
        if len(errors) == 1 and not plan.changed:
            raise errors[0]
        declared = [problem for error in errors if isinstance(error, InvalidDeclaration) for problem in error.problems]
        if declared and not plan.changed and all(isinstance(error, InvalidDeclaration) for error in errors):
            raise InvalidDeclaration(declared[:MOST_PROBLEMS])
        if errors:
            raise PartlyDone(" ".join(map(str, errors)), plan)
        return plan


def _locate(error: VmstoreError, place: int, domain: str) -> VmstoreError:
    """Return an error whose options are those of one element of the list."""
    path = f"domains[{place}]"
    if isinstance(error, InvalidDeclaration):
        return InvalidDeclaration([replace(one, path=f"{path}.{one.path}") for one in error.problems])
    if isinstance(error, InvalidInput):
        return InvalidInput(f"{path}.{error.option}", error.value, error.accepted)
    error.args = (f"{path} ({domain}): {error}",)  # so the error keeps its class
    return error


__all__ = ["DomainVolumesService"]
