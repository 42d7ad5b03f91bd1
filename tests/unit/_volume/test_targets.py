# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target names and places on the SCSI controller."""

from __future__ import annotations

import itertools
import string

from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import ScsiAddress
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_disks import DiskDevice, DiskSpec
from ansible_collections.granary.vmstore.plugins.module_utils._volume.connection import ConnectedDisk
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts
from ansible_collections.granary.vmstore.plugins.module_utils._volume.targets import (
    choose_scsi_addresses,
    choose_targets,
    index_of,
    letters_of,
)
from hypothesis import given
from hypothesis import strategies as st


def disks(**buses: str) -> list[ConnectedDisk]:
    return [
        ConnectedDisk(f"disks[{place}]", DiskSpec(name, DiskDevice(bus)), None, bus)
        for place, (name, bus) in enumerate(buses.items())
    ]


def test_letters_follow_the_alphabet() -> None:
    letters = string.ascii_lowercase
    expected = [*letters, *map("".join, itertools.product(letters, repeat=2)), "aaa"]
    assert [letters_of(index) for index in range(len(expected))] == expected


@given(st.integers(0, 10**9))
def test_letters_and_numbers_are_inverse(index: int) -> None:
    assert index_of(letters_of(index)) == index


def test_buses_share_rows_of_names() -> None:
    found = choose_targets(disks(a="virtio", b="sata", c="scsi", d="usb", e="virtio"), DomainFacts())
    assert found == {"a": "vda", "b": "sda", "c": "sdb", "d": "sdc", "e": "vdb"}


def test_gaps_are_filled_and_names_stay() -> None:
    facts = DomainFacts(targets={"c": "vdb", "gone": "vdc"}, other_targets=frozenset(["vda", "sda"]))
    found = choose_targets(disks(a="virtio", b="virtio", c="virtio", d="scsi"), facts)
    assert found == {"a": "vdc", "b": "vdd", "c": "vdb", "d": "sdb"}


def test_a_disk_on_another_bus_gets_another_name() -> None:
    facts = DomainFacts(targets={"a": "vda", "b": "sda"})
    assert choose_targets(disks(a="sata", b="scsi"), facts) == {"a": "sdb", "b": "sda"}


def test_the_name_after_z() -> None:
    buses = {f"d{number}": "virtio" for number in range(28)}
    found = choose_targets(disks(**buses), DomainFacts())
    assert list(found.values())[25:] == ["vdz", "vdaa", "vdab"]


def test_the_unit_is_the_number_of_the_name() -> None:
    connected = disks(a="sata", b="scsi", c="scsi")
    targets = {"a": "sda", "b": "sdb", "c": "sdaa"}
    assert choose_scsi_addresses(connected, targets, DomainFacts()) == {"b": ScsiAddress(0, 1), "c": ScsiAddress(0, 26)}


def test_the_unit_of_another_device_is_left() -> None:
    connected = disks(a="scsi", b="scsi", c="scsi")
    facts = DomainFacts(other_scsi_units=frozenset([0, 2, 3]), scsi_controller=1)
    found = choose_scsi_addresses(connected, {"a": "sda", "b": "sdb", "c": "sdc"}, facts)
    assert found == {"a": ScsiAddress(1, 4), "b": ScsiAddress(1, 1), "c": ScsiAddress(1, 5)}
