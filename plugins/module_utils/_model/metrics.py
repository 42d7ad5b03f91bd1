# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures of a host and of a virtual machine that guests can read (downward metrics), and the place of the files
by which guests read them.
"""

from __future__ import annotations

import os

from .._core.records import dataclass

#: Directory of the files, with one directory for each domain.
METRICS_DIRECTORY = "/var/lib/libvirt/granary-vmstore/downward-metrics"

#: Name of the file in the directory of a domain.
METRICS_NAME = "vhostmd0"


def metrics_file(uuid: str, directory: str = METRICS_DIRECTORY) -> str:
    """Return the path of the file for the disk of a domain."""
    return os.path.join(directory, uuid, METRICS_NAME)


@dataclass(frozen=True)
class HostFigures:
    """The figures of a host. Sizes are in KiB.

    :arg processors: number of processor packages.
    :arg cpu_seconds: time that all processors spent for users and for the kernel since the start, in seconds.
    :arg used_memory: physical memory without free memory, buffers and page cache.
    :arg used_virtual_memory: the same, with swap.
    :arg paged_in: read from swap since the start.
    :arg paged_out: written to swap since the start.
    :arg time: seconds since 1970.
    """

    processors: int
    cpu_seconds: float
    free_memory: int
    free_virtual_memory: int
    used_memory: int
    used_virtual_memory: int
    paged_in: int
    paged_out: int
    time: int


@dataclass(frozen=True)
class HostIdentity:
    """The names of a host that guests see.

    :arg product: version of the program that runs the virtual machines.
    """

    name: str
    product: str


@dataclass(frozen=True)
class VmFigures:
    """The figures of a running virtual machine.

    :arg cpu_seconds: time that its processors ran, in seconds.
    :arg processors: number of its processors.
    :arg memory: its memory, in KiB.
    """

    cpu_seconds: float
    processors: int
    memory: int


@dataclass(frozen=True)
class RunningDomain:
    """A running domain.

    :arg id: libvirt's number. Each start of a domain gets another one.
    """

    uuid: str
    id: int


__all__ = [
    "METRICS_DIRECTORY",
    "METRICS_NAME",
    "HostFigures",
    "HostIdentity",
    "RunningDomain",
    "VmFigures",
    "metrics_file",
]
