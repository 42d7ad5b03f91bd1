# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of an export that is to be absent."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable

from ..._catalog.catalog import read_catalog
from ..._catalog.images import IMAGES
from ..._core.paths import real_path
from ..._core.plan import Action, nothing
from ..._core.records import dataclass, replace
from ..._image.nocloud_seed import SeedMount, read_seed
from ..._libvirt.connection import Hypervisor
from ..._libvirt.devices.filesystem import VirtioFs
from ..domain_restart import RestartPlan
from ..image.attached import ImageAttachment, attachments
from .catalog_attachment import detach_action
from .definition import removal_action
from .domains import devices_of
from .guest_ids import free_own_ids
from .options import ExportSpec
from .record import forget_directories
from .running import plan_unplug
from .seed import seed_action


@dataclass(frozen=True)
class Selection:
    """The devices that the options select.

    :arg sources: the directories; ``None`` selects any.
    :arg tag: the mount tag; ``None`` selects any.
    :arg excluded: mount tags of other images, which may have the same directory.
    """

    sources: set[str] | None
    tag: str | None
    excluded: set[str]

    def has(self, device: VirtioFs) -> bool:
        return (
            (self.sources is None or os.path.normpath(device.source) in self.sources)
            and self.tag in (None, device.tag)
            and device.tag not in self.excluded
        )


def plan_absent(plan: RestartPlan, spec: ExportSpec, hypervisor: Hypervisor) -> None:
    """Add to ``plan`` the actions that take the export from a domain."""
    domain = hypervisor.find_domain(spec.domain)
    name = spec.domain if domain is None else domain.name
    plan.result.update(domain=name, mapped=False, device=None)
    selection, attached = _select(spec, name)
    if domain is not None:
        removal, tags = removal_action(domain, selection.has)
        plan.actions += [] if removal is None else [removal]
        tags |= plan_unplug(plan, domain, selection.has)
        if spec.seed is not None and read_seed(spec.seed) is not None:
            tags |= {one.mount_tag for one in attached}
            writing = seed_action(hypervisor, domain, spec.seed, functools.partial(_without_mounts, tags))
            plan.actions += [] if writing is None else [writing]
    if attached and not plan.reasons:
        plan.actions.append(_detach_action(plan, spec.catalog, attached))
    plan.afterwards += [
        functools.partial(forget_directories, functools.partial(_shared_directories, hypervisor)),
        functools.partial(free_own_ids, hypervisor, name, domain),
    ]


def _select(spec: ExportSpec, domain: str) -> tuple[Selection, list[ImageAttachment]]:
    """Return the selected devices, and their attachments in the catalog of this host, if it has one."""
    sources: set[str] = set()
    if spec.attachment is not None:
        sources.add(os.path.normpath(spec.attachment.source))
    if spec.source is not None:
        sources |= {spec.source, real_path(spec.source)}
    recorded: list[ImageAttachment] = []
    excluded: set[str] = set()
    if os.path.lexists(spec.catalog):
        with read_catalog(spec.catalog, missing_ok=False) as view:
            recorded = attachments(view, host=spec.host, domain=domain)
            image = None if spec.image is None else IMAGES.find(view, spec.image)
        if image is not None:
            sources.add(image.path)
            excluded = {one.mount_tag for one in recorded if one.image_id != image.id}
    tag = spec.attachment.mount_tag if spec.attachment else spec.mount_tag
    # An image that isn't in the catalog selects no device.
    selection = Selection(sources if sources or spec.image is not None else None, tag, excluded)
    return selection, [one for one in recorded if selection.has(VirtioFs(one.mount_tag, one.source))]


def _without_mounts(tags: set[str], mounts: Iterable[SeedMount]) -> list[SeedMount]:
    return [one for one in mounts if one.tag not in tags]


def _detach_action(plan: RestartPlan, catalog: str, attached: list[ImageAttachment]) -> Action:
    """Return the action that removes attachments from the catalog, unless the guest keeps a device: as long as it can
    write to the directory, no other domain may.
    """
    action = detach_action(catalog, attached)

    def detach() -> str | None:
        if plan.postponed or plan.errors:
            return "the guest keeps a device"
        action.record()
        return None

    return replace(action, record=nothing, undo=nothing, finish=detach)


def _shared_directories(hypervisor: Hypervisor) -> set[str]:
    return {os.path.normpath(device.source) for one in hypervisor.domains() for device in devices_of(one)}


__all__ = ["plan_absent"]
