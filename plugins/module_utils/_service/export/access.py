# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The access of virtiofsd and of the guest to an exported directory, by owners, modes and id maps."""

from __future__ import annotations

import pwd
import shlex

from ..._core.errors import Conflict
from ..._core.plan import Plan
from ..._host.ids.idmap_check import host_id
from ..._host.shared_directory import HeldDirectory
from ..._host.virtiofsd.program import WRAPPER
from .domains import HostDomains, shares
from .guest_ids import GuestIds
from .resolve import Export
from .support import HostSupport


def check_access(
    plan: Plan,
    export: Export,
    directory: HeldDirectory,
    ids: GuestIds,
    support: HostSupport,
    domains: HostDomains,
    user: str,
) -> None:
    """Refuse a directory that virtiofsd can't reach, and warn of what the guest can't use.

    :arg user: the user that runs virtiofsd.
    :raises Conflict: virtiofsd wouldn't find the directory, so that the domain wouldn't start.
    """
    if not ids.uid_map:
        plan.warnings.append(
            f"{export.source} is exported without an id map, so the guest's root is root in it: {support.obstacle}."
        )
        return
    if support.binary == WRAPPER:
        _check_way(export, directory, ids, user)
    _warn_of_obstacle(plan, export, directory, ids)
    _warn_of_other_ids(plan, export, ids, domains)


def _check_way(export: Export, directory: HeldDirectory, ids: GuestIds, user: str) -> None:
    account = pwd.getpwnam(user)
    closed = directory.closed_way(account.pw_uid, account.pw_gid, ids.uid_map, ids.gid_map)
    if closed:
        path, owner = shlex.quote(closed[0]), closed[1]
        root = host_id(ids.uid_map, 0)
        raise Conflict(
            f"{export.option}: with {export.source!r} the domain wouldn't start, because {owner}, and virtiofsd has to "
            f"pass it as {user!r} and as the guest's root, which is {root} on this host: 'chmod o+x {path}' lets "
            f"everybody pass; where root owns it, 'setfacl -m u:{user}:x,u:{root}:x {path}' just these two."
        )


def _warn_of_obstacle(plan: Plan, export: Export, directory: HeldDirectory, ids: GuestIds) -> None:
    """Warn of a directory that the guest's root can't use. Owners and modes can change at any time, so it is no
    error.
    """
    root = (host_id(ids.uid_map, 0), host_id(ids.gid_map, 0))
    if None in root:
        return
    obstacle = directory.obstacle(ids.uid_map, ids.gid_map, write=not export.read_only)
    if obstacle is not None:
        use = "read" if export.read_only else "write to"
        plan.warnings.append(
            f"The guest's root is {root[0]}:{root[1]} on this host and can't {use} {export.source!r}, because "
            f"{obstacle}."
        )


def _warn_of_other_ids(plan: Plan, export: Export, ids: GuestIds, domains: HostDomains) -> None:
    """Warn of other maps of the same directory: each guest then sees the files of the other as nobody's."""
    for name, device in domains.foreign:
        if shares(device, export.source) and device.uid_map != ids.uid_map:
            plan.warn_once(
                f"The domain {name!r} shares {export.source!r} with other ids: in each guest the other's files belong "
                "to nobody. Give both the same ids (subid: shared, or the same uid_map and gid_map) where they have to "
                "change each other's files."
            )


__all__ = ["check_access"]
