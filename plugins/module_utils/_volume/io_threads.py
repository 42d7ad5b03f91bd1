# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The threads of a domain for input and output: their number, the disks that use them, and their processors.

KubeVirt's rules apply, with one exception. The policy ``auto`` counts the virtual processors of the domain, as
KubeVirt's guide has it. KubeVirt itself counts the processors that a virtual machine requests from its cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._core.records import dataclass, field
from .._model.domain_volumes import AUTO, SUPPLEMENTAL_POOL, DomainVolumes
from .connection import ConnectedDisk
from .facts import DomainFacts


@dataclass(frozen=True)
class IoThreads:
    """The threads of a domain.

    :arg count: the number of all threads, with those of other devices; 0 leaves the domain as it is.
    :arg threads: the thread of a disk by the name of the disk.
    :arg pool: the threads that every virtio disk has; empty without such a pool.
    :arg pins: the host's processors of a thread, as libvirt has them.
    """

    count: int = 0
    threads: Mapping[str, int] = field(default_factory=dict)
    pool: tuple[int, ...] = ()
    pins: Mapping[int, str] = field(default_factory=dict)


def plan_io_threads(spec: DomainVolumes, disks: Sequence[ConnectedDisk], facts: DomainFacts) -> IoThreads:
    """Return the threads for the disks of a declaration."""
    dedicated = sum(disk.spec.dedicated_io_thread for disk in disks)
    if spec.io_threads_policy is None and not dedicated:
        return IoThreads()
    # The first threads belong to other devices.
    first = facts.other_io_threads + 1
    if spec.io_threads_policy == SUPPLEMENTAL_POOL:
        count = spec.io_threads or 0
        pool = tuple(range(first, first + count))
        return IoThreads(facts.other_io_threads + count, {}, pool, _pin_pool(pool, facts))
    shared = _count_shared(spec, len(disks) - dedicated, dedicated, facts)
    count = shared + dedicated
    numbers = range(first, first + count)
    threads = _assign(disks, numbers[:shared], numbers[shared:])
    return IoThreads(facts.other_io_threads + count, threads, (), _pin(numbers, facts))


def _count_shared(spec: DomainVolumes, others: int, dedicated: int, facts: DomainFacts) -> int:
    """Return the number of threads for the disks without a dedicated one.

    :arg others: the number of these disks.
    """
    limit = 1
    if spec.io_threads_policy == AUTO and not (facts.pinned_cpus and facts.emulator_cpus):
        limit = 2 * facts.vcpus
    if others + dedicated > limit:
        return max(1, limit - dedicated)
    return others


def _assign(disks: Sequence[ConnectedDisk], shared: Sequence[int], dedicated: Sequence[int]) -> dict[str, int]:
    """Return the thread of each virtio disk. QEMU gives threads to these disks only."""
    found = {}
    own = iter(dedicated)
    place = 0
    for disk in disks:
        if disk.bus != "virtio":
            continue
        if disk.spec.dedicated_io_thread:
            found[disk.name] = next(own)
        else:
            found[disk.name] = shared[place % len(shared)]
            place += 1
    return found


def _pin(numbers: Sequence[int], facts: DomainFacts) -> dict[int, str]:
    """Return the processors of each thread, if the virtual processors are pinned."""
    processors = facts.pinned_cpus
    if not processors or not numbers:
        return {}
    if facts.emulator_cpus:
        return {numbers[0]: _cpu_set(facts.emulator_cpus)}
    if len(numbers) >= len(processors):
        # The first thread has the second processor, as in KubeVirt.
        return {number: str(processors[place % len(processors)]) for place, number in enumerate(numbers, start=1)}
    return dict(zip(numbers, _slices(processors, len(numbers))))


def _slices(processors: Sequence[int], count: int) -> list[str]:
    """Return ``count`` successive parts of the processors. The first parts have one more, if they can't be equal."""
    size, rest = divmod(len(processors), count)
    found, start = [], 0
    for place in range(count):
        end = start + size + (place < rest)
        found.append(_cpu_set(processors[start:end]))
        start = end
    return found


def _pin_pool(pool: Sequence[int], facts: DomainFacts) -> dict[int, str]:
    """Return the processors of the pool: one for each thread, beside those of the virtual processors."""
    return {number: str(processor) for number, processor in zip(pool, facts.pool_cpus)}


def _cpu_set(processors: Sequence[int]) -> str:
    return ",".join(map(str, processors))


__all__ = ["IoThreads", "plan_io_threads"]
