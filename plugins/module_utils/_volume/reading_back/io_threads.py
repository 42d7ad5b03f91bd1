# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The policy for the threads of input and output, found from the threads of a domain's disks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..._core.records import dataclass
from ..._libvirt.devices.volume_disk import VolumeDisk
from ..._model.domain_volumes import AUTO, SHARED, SUPPLEMENTAL_POOL, DomainVolumes
from ..._model.volume_disks import DiskSpec
from ..connection import ConnectedDisk
from ..facts import DomainFacts
from ..io_threads import IoThreads, plan_io_threads


@dataclass(frozen=True)
class ThreadPolicy:
    """A policy.

    :arg name: ``None`` declares none.
    :arg pool: the number of threads of the policy ``supplementalPool``.
    :arg dedicated: the names of the disks with a thread of their own.
    """

    name: str | None = None
    pool: int | None = None
    dedicated: frozenset[str] = frozenset()


def find_thread_policy(disks: Sequence[VolumeDisk], count: int, facts: DomainFacts) -> ThreadPolicy:
    """Return the first policy that gives the disks their threads. Without such a policy, none is declared.

    :arg count: the number of the domain's threads. A policy with another number is accepted if no other one fits.
    """
    threads = {disk.name: disk.io_thread for disk in disks if disk.io_thread is not None}
    choices = [[_connect(disk, is_dedicated=flag) for flag in (False, True)] for disk in disks]
    fallback = None
    for policy in _policies(disks, threads):
        plan = _plan(policy, choices, facts)
        if _gives(plan, disks, threads):
            if plan.count == count:
                return policy
            fallback = fallback or policy
    return fallback or ThreadPolicy()


def _policies(disks: Sequence[VolumeDisk], threads: dict[str, int]) -> Iterator[ThreadPolicy]:
    """Yield the policies that are possible. Dedicated threads are the last ones."""
    if not threads:
        pool = max([0, *(len(disk.io_threads) for disk in disks)])
        # A policy also gives threads to a domain whose disks can't use them.
        yield from [ThreadPolicy(SUPPLEMENTAL_POOL, pool)] if pool else map(ThreadPolicy, (None, SHARED, AUTO))
        return
    numbers = sorted(threads.values())
    # Threads above the highest one that several disks have can be dedicated ones.
    shared = max([0, *(one for one, other in zip(numbers, numbers[1:]) if one == other)])
    bounds = [numbers[-1] + 1, *sorted({one for one in numbers if one > shared}, reverse=True)]
    for name in (None, SHARED, AUTO):
        for bound in bounds:
            yield ThreadPolicy(name, None, frozenset(disk for disk, thread in threads.items() if thread >= bound))


def _connect(disk: VolumeDisk, *, is_dedicated: bool) -> ConnectedDisk:
    return ConnectedDisk("", DiskSpec(disk.name, dedicated_io_thread=is_dedicated), None, disk.bus)


def _plan(policy: ThreadPolicy, choices: Sequence[Sequence[ConnectedDisk]], facts: DomainFacts) -> IoThreads:
    """Return the threads with a policy.

    :arg choices: each disk without and with a thread of its own.
    """
    connected = [choice[choice[0].name in policy.dedicated] for choice in choices]
    return plan_io_threads(DomainVolumes(io_threads_policy=policy.name, io_threads=policy.pool), connected, facts)


def _gives(plan: IoThreads, disks: Sequence[VolumeDisk], threads: dict[str, int]) -> bool:
    """Return whether a plan gives each disk the threads that it has."""
    on_virtio = [disk for disk in disks if disk.bus == "virtio"]
    return dict(plan.threads) == threads and all(disk.io_threads == plan.pool for disk in on_virtio)


__all__ = ["ThreadPolicy", "find_thread_policy"]
