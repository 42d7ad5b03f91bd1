# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The id maps of an export, and the owners of these ids on the host (spec: virtiofs-datastore, "User and Group ID
mapping").
"""

from __future__ import annotations

from ..._core.errors import InvalidInput, UnsupportedAction
from ..._host.ids import idmap_check
from ..._host.ids import owners as id_owners
from ..._host.virtiofsd.wrapper import configured_user
from ..._libvirt.devices.filesystem import VirtioFs
from ..._model.idmap import IdMap

#: Ids of the guest whose owners on the host are part of the result: its root and its first ordinary user.
REPORTED_IDS = (0, 1000)

#: The spec's service user, where the role granary.vmstore.hypervisor chose none.
DEFAULT_USER = "oneadmin"

#: Upper bound of the number of other owners that a warning names.
LISTED_OWNERS = 5

IdMaps = tuple[IdMap, ...]


def daemon_user(option: str | None) -> str:
    """Return the user that runs virtiofsd: the one of the option, else the one that the role hypervisor chose, else the
    spec's.
    """
    return option or configured_user() or DEFAULT_USER


def decide_maps(
    uid_map: IdMaps | None, gid_map: IdMaps | None, *, user: str, obstacle: str | None, allow_unmapped: bool
) -> tuple[IdMaps, IdMaps]:
    """Return the maps to export with; none only where the host can't map, the user gives no map, and that is allowed.

    :arg user: the service user, whose subordinate ids are the default.
    :arg obstacle: the reason why this host can't map; ``None`` where it can.
    :raises UnsupportedAction: the host can't map; :raises DependencyNotFound: the maps lead out of the user's
        subordinate ids.
    :raises InvalidInput: a map lacks the guest's id 0.
    """
    if obstacle is not None:
        for option, value in (("uid_map", uid_map), ("gid_map", gid_map)):
            if value:
                raise UnsupportedAction(
                    f"{option}: the map {' '.join(map(str, value))!r} can't be had on this host, because {obstacle}."
                )
        if not allow_unmapped:
            raise UnsupportedAction(
                f"The guest's ids can't be mapped on this host, because {obstacle}; without a map the guest's root is "
                "root in the directory, which 'allow_unmapped: true' accepts."
            )
        return (), ()
    for option, wanted in (("uid_map", uid_map), ("gid_map", gid_map)):
        if wanted and idmap_check.host_id(wanted, 0) is None:
            reason = f"a map of the guest's id 0 is expected, because virtiofsd works as {user!r} itself without it"
            raise InvalidInput(option, " ".join(map(str, wanted)), reason)
    idmap_check.check_account(user)
    idmap_check.check_tools()
    maps = []
    for kind, wanted in (("uid", uid_map), ("gid", gid_map)):
        if wanted:
            idmap_check.check_maps(user, kind, wanted)
        maps.append(wanted or (idmap_check.default_map(user, kind),))
    return maps[0], maps[1]


def check_domain_range(uid_map: IdMaps | None, gid_map: IdMaps | None, *, user: str, obstacle: str | None) -> None:
    """Refuse a range for the domain alone where it can't be had.

    :arg obstacle: the reason why this host can't map; ``None`` where it can.
    :raises UnsupportedAction: the host can't map; :raises InvalidInput: maps were given; :raises DependencyNotFound:
        there is no such user.
    """
    if obstacle is not None:
        raise UnsupportedAction(f"subid: ids of the domain alone can't be had on this host, because {obstacle}.")
    if uid_map or gid_map:
        raise InvalidInput(
            "subid", "per_domain", "with uid_map or gid_map, of the export or of the image, 'shared' is expected"
        )
    idmap_check.check_account(user)
    idmap_check.check_tools()


def owners(uid_map: IdMaps, gid_map: IdMaps) -> list[dict[str, int | None]]:
    """Return the host ids of :data:`REPORTED_IDS`; ``None`` for an id that the guest can't use."""
    return [
        {"guest": one, "uid": idmap_check.host_id(uid_map, one), "gid": idmap_check.host_id(gid_map, one)}
        for one in REPORTED_IDS
    ]


def other_owners(user: str, device: VirtioFs) -> list[str]:
    """Return the other owners on this host of ids in the device's maps.

    :arg user: the service user.
    """
    return [*id_owners.other_owners(user, "uid", device.uid_map), *id_owners.other_owners(user, "gid", device.gid_map)]


def warning_of_owners(user: str, device: VirtioFs) -> str | None:
    """Return a warning of :func:`other_owners`; ``None`` without any."""
    found = other_owners(user, device)
    if not found:
        return None
    listed = ", ".join(found[:LISTED_OWNERS])
    listed += f" and {len(found) - LISTED_OWNERS} more" if len(found) > LISTED_OWNERS else ""
    return (
        f"On this host, ids that the device {device.tag!r} maps guest ids to are also those of {listed}. The guest's "
        "users can act as them there, and they as the guest's users. Give them other ids, or give the export other "
        "maps and its files the owners for these."
    )


__all__ = [
    "IdMaps",
    "check_domain_range",
    "daemon_user",
    "decide_maps",
    "other_owners",
    "owners",
    "warning_of_owners",
]
