# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which ids an export maps, and what this host's libvirt and virtiofsd can't do (spec: virtiofs-datastore, "User and
Group ID mapping").
"""

from __future__ import annotations

from ..._core.errors import InvalidInput, UnsupportedAction
from ..._host.ids import idmap_check
from ..._host.ids import owners as id_owners
from ..._host.virtiofsd.program import WRAPPER, Daemon
from ..._host.virtiofsd.wrapper import configured_user
from ..._libvirt.domain_xml import VirtioFs
from ..._model.idmap import IdMap

#: libvirt before these versions takes <idmap> and <readonly/> of a virtiofs device for something else (its NEWS).
VERSION_OF_IDMAP = (10, 0, 0)
VERSION_OF_READ_ONLY = (11, 0, 0)

#: The ids whose owner on the host the result tells: the guest's root and its first ordinary user.
SHOWN_IDS = (0, 1000)

#: The spec's service user, where the role granary.vmstore.hypervisor chose none.
DEFAULT_USER = "oneadmin"

#: Upper bound of the other owners that a warning names.
SHOWN_OWNERS = 5

IdMaps = tuple[IdMap, ...]


def daemon_user(option: str | None) -> str:
    """Return the user that runs virtiofsd: the one of the option, else the one that the role hypervisor chose, else the
    spec's.
    """
    return option or configured_user() or DEFAULT_USER


def decide_maps(
    uid_map: IdMaps | None, gid_map: IdMaps | None, *, user: str, obstacle: str | None, allow_unmapped: bool
) -> tuple[IdMaps, IdMaps]:
    """The maps to export with; none only where the host can't map, nobody asked for a map, and that is allowed.

    :arg user: the service user, whose subordinate ids are the default.
    :arg obstacle: why this host can't map, from :func:`map_obstacle`.
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
                "root in the directory, "
                "which 'allow_unmapped: true' accepts."
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

    :arg obstacle: why this host can't map, from :func:`map_obstacle`.
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


def map_obstacle(version: tuple[int, int, int], daemon: Daemon, *, runs_as_root: bool) -> str | None:
    """Why an export of this host can't have a map, as the rest of a sentence.

    :arg version: libvirt's.
    :arg runs_as_root: whether this libvirt starts daemons as root, as ``qemu:///system`` does.
    """
    if version < VERSION_OF_IDMAP:
        return f"its libvirt is {_dotted(version)} and maps ids from {_dotted(VERSION_OF_IDMAP)} on"
    if not daemon.can_map:
        return f"{daemon.path} has no --uid-map (virtiofsd in Rust is needed, the package virtiofsd)"
    if runs_as_root and not daemon.is_wrapper:
        return (
            f"{daemon.path} runs as root and virtiofsd maps ids only as another user (the role "
            f"granary.vmstore.hypervisor installs {WRAPPER} for that)"
        )
    return None


def check_read_only(version: tuple[int, int, int], daemon: Daemon) -> None:
    """:raises UnsupportedAction: this host can't export read-only."""
    reason = None
    if version < VERSION_OF_READ_ONLY:
        reason = f"its libvirt is {_dotted(version)} and exports read-only from {_dotted(VERSION_OF_READ_ONLY)} on"
    elif not daemon.can_read_only:
        reason = f"{daemon.path} has no --readonly (virtiofsd 1.13 or later is needed)"
    if reason is not None:
        raise UnsupportedAction(f"read_only: a read-only export can't be had on this host, because {reason}.")


def owners(uid_map: IdMaps, gid_map: IdMaps) -> list[dict[str, int | None]]:
    """What ids of the guest are on the host; ``None`` is an id that the guest can't use."""
    return [
        {"guest": one, "uid": idmap_check.host_id(uid_map, one), "gid": idmap_check.host_id(gid_map, one)}
        for one in SHOWN_IDS
    ]


def other_owners(user: str, device: VirtioFs) -> list[str]:
    """Return who else on this host has ids of the device's maps.

    :arg user: the service user.
    """
    return [*id_owners.other_owners(user, "uid", device.uid_map), *id_owners.other_owners(user, "gid", device.gid_map)]


def warning_of_owners(user: str, device: VirtioFs) -> str | None:
    """Return the sentence about :func:`other_owners`, ``None`` without any."""
    found = other_owners(user, device)
    if not found:
        return None
    shown = ", ".join(found[:SHOWN_OWNERS]) + (
        f" and {len(found) - SHOWN_OWNERS} more" if len(found) > SHOWN_OWNERS else ""
    )
    return (
        f"On this host, ids that the device {device.tag!r} maps guest ids to are also those of {shown}. The guest's "
        "users can act as them there, "
        "and they as the guest's users. Give them other ids, or give the export other maps and its files the owners "
        "for these."
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


__all__ = [
    "IdMaps",
    "check_domain_range",
    "check_read_only",
    "daemon_user",
    "decide_maps",
    "map_obstacle",
    "other_owners",
    "owners",
    "warning_of_owners",
]
