# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of an export that is to be present."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from ..._core.plan import Action
from ..._host.share_risks import share_risks
from ..._host.shared_directory import HeldDirectory
from ..._host.virtiofsd.program import WRAPPER
from ..._image.nocloud_seed import SeedMount
from ..._libvirt.connection import Hypervisor
from ..._libvirt.devices.filesystem import VirtioFs
from ..._libvirt.edit import DefinitionEdit
from ..domain_restart import RestartPlan
from .access import check_access
from .definition import check_other_domains, complete_device, create_device, definition_action
from .domains import read_domains
from .guest_ids import GuestIds, decide_ids, free_own_ids
from .identity import daemon_user, warning_of_owners
from .info import device_as_result
from .options import ExportSpec
from .record import ExportRecord
from .resolve import Export, resolve_export
from .running import plan_plug
from .seed import seed_action
from .support import check_read_only, check_wrapper, find_support


def plan_present(plan: RestartPlan, spec: ExportSpec, hypervisor: Hypervisor, *, is_dry_run: bool) -> None:
    """Add to ``plan`` the actions that give a domain the export.

    :arg is_dry_run: whether this is check mode, where tasks before this one have changed nothing.
    """
    domains = read_domains(hypervisor, spec.domain)
    domain = domains.domain
    export, attaching = resolve_export(plan, spec, domain.name, domains.names)
    directory = HeldDirectory(export.option, export.source)
    record = ExportRecord(export.option, export.source)
    record.check(domains.is_shared(export.source))
    plan.warnings += share_risks(record.found, read_only=export.read_only)
    support = find_support(hypervisor, spec.binary)
    if export.read_only:
        check_read_only(support.version, support.daemon)
    if is_dry_run and not spec.allow_unmapped:
        check_wrapper(support)
    user = daemon_user(spec.service_user)
    ids = decide_ids(spec, export, domains, support.obstacle)
    plan.actions += _as_list(spec.owner.action(directory, ids.uid_map, ids.gid_map))
    check_access(plan, export, directory, ids, support, domains, user)
    edit = DefinitionEdit(domain)
    device = complete_device(create_device(spec, export, ids, support.binary), export, domain.name, edit.root)
    check_other_domains(export, domains)
    plan.actions += attaching
    definition = definition_action(edit, device, directory, spec.seed)
    plan.actions += _with_records(definition, record if device.binary == WRAPPER else None, ids)
    if ids.own is None:
        plan.afterwards.append(functools.partial(free_own_ids, hypervisor, domain.name, domain))
    warning = warning_of_owners(user, device)
    plan.warnings += [] if warning is None else [warning]
    plan_plug(plan, domain, device, spec.seed)
    if spec.seed is not None and export.mount_point is not None:
        mount = SeedMount(export.mount_tag, export.mount_point, export.read_only)
        plan.actions += _as_list(seed_action(hypervisor, domain, spec.seed, functools.partial(_with_mount, mount)))
    plan.result.update(domain=domain.name, mapped=bool(device.uid_map), device=_as_result(export, device))


def _as_list(action: Action | None) -> list[Action]:
    return [] if action is None else [action]


def _with_records(definition: Action | None, record: ExportRecord | None, ids: GuestIds) -> list[Action]:
    """Return ``definition`` preceded by the records of the directory and of the domain's own ids."""
    actions = _as_list(definition) if record is None else record.prepend_to(definition)
    return actions if ids.own is None else ids.own.prepend_to(actions[0] if actions else None)


def _with_mount(mount: SeedMount, mounts: Iterable[SeedMount]) -> list[SeedMount]:
    return [*(one for one in mounts if one.tag != mount.tag), mount]


def _as_result(export: Export, device: VirtioFs) -> dict[str, object]:
    return {**device_as_result(device), "image": export.image, "mount_point": export.mount_point}


__all__ = ["plan_present"]
