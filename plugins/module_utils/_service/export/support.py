# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The abilities of this host's libvirt and virtiofsd, which an export may lack (spec: virtiofs-datastore, "User and
Group ID mapping").
"""

from __future__ import annotations

import os

from ..._core.errors import DependencyMissing, UnsupportedAction
from ..._core.records import dataclass
from ..._host.virtiofsd.program import WRAPPER, Daemon, default_binary, find_daemon
from ..._libvirt.connection import Hypervisor

#: Versions of libvirt that first support ``<idmap>`` and ``<readonly/>`` of a virtiofs device (its NEWS). An older
#: libvirt misinterprets them.
VERSION_OF_IDMAP = (10, 0, 0)
VERSION_OF_READ_ONLY = (11, 0, 0)

Version = tuple[int, int, int]


@dataclass(frozen=True)
class HostSupport:
    """The virtiofsd and the libvirt of this host.

    :arg binary: the virtiofsd; ``None`` leaves the choice to libvirt.
    :arg obstacle: the reason why this host can't map ids, as the rest of a sentence; ``None`` where it can.
    """

    version: Version
    binary: str | None
    daemon: Daemon
    obstacle: str | None


def find_support(hypervisor: Hypervisor, binary: str | None) -> HostSupport:
    """Return the abilities of this host with the virtiofsd ``binary`` or, without one, the default.

    :raises InvalidInput: ``binary`` isn't the absolute path of a program.
    :raises DependencyNotFound: this host has no virtiofsd.
    """
    binary = binary or default_binary()
    daemon = find_daemon(binary)
    version = hypervisor.version
    runs_as_root = os.geteuid() == 0 or not hypervisor.uri.startswith("qemu:///session")
    return HostSupport(version, binary, daemon, map_obstacle(version, daemon, runs_as_root=runs_as_root))


def map_obstacle(version: Version, daemon: Daemon, *, runs_as_root: bool) -> str | None:
    """Return the reason why an export of this host can't have a map, as the rest of a sentence; ``None`` where it can.

    :arg version: libvirt's.
    :arg runs_as_root: whether this libvirt starts daemons as root, as ``qemu:///system`` does.
    """
    if version < VERSION_OF_IDMAP:
        return f"its libvirt is {_format_version(version)} and maps ids from {_format_version(VERSION_OF_IDMAP)} on"
    if not daemon.can_map:
        return f"{daemon.path} has no --uid-map (virtiofsd in Rust is needed, the package virtiofsd)"
    if runs_as_root and not daemon.is_wrapper:
        return (
            f"{daemon.path} runs as root and virtiofsd maps ids only as another user (the role "
            f"granary.vmstore.hypervisor installs {WRAPPER} for that)"
        )
    return None


def check_wrapper(support: HostSupport) -> None:
    """Require the wrapper in check mode, where a task before this one may install it.

    :raises DependencyMissing: a wrapper is all that this host needs to map ids.
    """
    if support.obstacle is not None and support.version >= VERSION_OF_IDMAP and support.daemon.can_map:
        raise DependencyMissing(f"The guest's ids can't be mapped on this host yet, because {support.obstacle}.")


def check_read_only(version: Version, daemon: Daemon) -> None:
    """Require the ability to export read-only.

    :raises UnsupportedAction: this host lacks it.
    """
    reason = None
    if version < VERSION_OF_READ_ONLY:
        first = _format_version(VERSION_OF_READ_ONLY)
        reason = f"its libvirt is {_format_version(version)} and exports read-only from {first} on"
    elif not daemon.can_read_only:
        reason = f"{daemon.path} has no --readonly (virtiofsd 1.13 or later is needed)"
    if reason is not None:
        raise UnsupportedAction(f"read_only: a read-only export can't be had on this host, because {reason}.")


def _format_version(version: Version) -> str:
    return ".".join(map(str, version))


__all__ = ["HostSupport", "check_read_only", "check_wrapper", "find_support", "map_obstacle"]
