# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads for input and output beside those of other devices. test_cases.py has KubeVirt's tables."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.records import replace
from ansible_collections.granary.vmstore.plugins.module_utils._model.domain_volumes import DomainVolumes
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_disks import DiskDevice, DiskSpec
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_sources import EmptyDisk, VolumeSpec
from ansible_collections.granary.vmstore.plugins.module_utils._volume.connection import connect_disks
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.io_threads import IoThreads, plan_io_threads

NAMES = ("a", "b", "c")
SPEC = DomainVolumes(
    disks=tuple(DiskSpec(name, DiskDevice("virtio"), dedicated_io_thread=name == "b") for name in NAMES),
    volumes=tuple(VolumeSpec(name, EmptyDisk(1 << 30)) for name in NAMES),
    io_threads_policy="auto",
)
FACTS = DomainFacts(vcpus=2, other_io_threads=2)


def plan(spec: DomainVolumes = SPEC, facts: DomainFacts = FACTS) -> IoThreads:
    return plan_io_threads(spec, connect_disks(spec, facts), facts)


def test_the_threads_of_others_come_first() -> None:
    assert plan() == IoThreads(5, {"a": 3, "b": 5, "c": 4})
    pins = {3: "8", 4: "7", 5: "8"}
    assert plan(facts=replace(FACTS, pinned_cpus=(7, 8))) == IoThreads(5, {"a": 3, "b": 5, "c": 4}, pins=pins)


def test_an_isolated_emulator_shares_its_processors_with_the_first_thread() -> None:
    facts = replace(FACTS, pinned_cpus=(7, 8), emulator_cpus=(1, 2))
    assert plan(facts=facts) == IoThreads(4, {"a": 3, "b": 4, "c": 3}, pins={3: "1,2"})


def test_a_pool_beside_the_threads_of_others() -> None:
    pool = replace(SPEC, io_threads_policy="supplementalPool", io_threads=2)
    assert plan(pool) == IoThreads(4, pool=(3, 4))
    facts = replace(FACTS, pinned_cpus=(7, 8), pool_cpus=(9, 10))
    assert plan(pool, facts) == IoThreads(4, pool=(3, 4), pins={3: "9", 4: "10"})


@pytest.mark.parametrize("policy", ["shared", "auto"])
def test_a_policy_without_disks(policy: str) -> None:
    facts = replace(FACTS, pinned_cpus=(7, 8), emulator_cpus=(1,))
    assert plan(DomainVolumes(io_threads_policy=policy), facts) == IoThreads(2)


def test_without_a_policy() -> None:
    ordinary = replace(SPEC, disks=tuple(replace(disk, dedicated_io_thread=False) for disk in SPEC.disks))
    assert plan(replace(ordinary, io_threads_policy=None)) == IoThreads()
    assert plan(replace(SPEC, io_threads_policy=None)) == IoThreads(4, {"a": 3, "b": 4, "c": 3})
