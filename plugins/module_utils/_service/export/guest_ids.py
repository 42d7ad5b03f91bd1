# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host ids of a guest: shared with other domains, or of the domain alone."""

from __future__ import annotations

from ..._core.records import dataclass
from ..._libvirt.connection import Domain, Hypervisor
from ..ids.domain_ids import DomainIds, check_foreign_ranges, free_ranges
from .domains import HostDomains, devices_of
from .identity import IdMaps, check_domain_range, daemon_user, decide_maps
from .options import ExportSpec
from .resolve import Export


@dataclass(frozen=True)
class GuestIds:
    """The maps of an export, both empty without a map.

    :arg own: the range of the domain alone; ``None`` for shared ids.
    """

    uid_map: IdMaps
    gid_map: IdMaps
    own: DomainIds | None = None


def decide_ids(spec: ExportSpec, export: Export, domains: HostDomains, obstacle: str | None) -> GuestIds:
    """Return the maps to export with.

    :arg obstacle: the reason why this host can't map, from :func:`map_obstacle`.
    :raises UnsupportedAction: the host can't map; :raises InvalidInput: a map isn't accepted.
    :raises DependencyNotFound: the maps lead out of the user's subordinate ids.
    :raises Conflict: a map leads into the range of another domain.
    """
    user, domain = daemon_user(spec.service_user), domains.domain
    if spec.has_own_ids:
        check_domain_range(export.uid_map, export.gid_map, user=user, obstacle=obstacle)
        used = [one for _name, device in domains.foreign for one in (*device.uid_map, *device.gid_map)]
        own = DomainIds(domain.uuid, domain.name, user, used)
        return GuestIds((own.map,), (own.map,), own)
    maps = decide_maps(export.uid_map, export.gid_map, user=user, obstacle=obstacle, allow_unmapped=spec.allow_unmapped)
    check_foreign_ranges(domain.uuid, [*maps[0], *maps[1]])
    return GuestIds(*maps)


def free_own_ids(hypervisor: Hypervisor, name: str, domain: Domain | None) -> None:
    """Free the ids of the domain alone unless a device has them, such as a device that the guest didn't release.

    :arg name: name of the domain.
    :arg domain: ``None`` where the domain is gone.
    """
    devices = [] if domain is None else devices_of(domain)
    used = [one for device in devices for one in (*device.uid_map, *device.gid_map)]
    free_ranges(name, {one.uuid for one in hypervisor.domains()}, None if domain is None else domain.uuid, used)


__all__ = ["GuestIds", "decide_ids", "free_own_ids"]
