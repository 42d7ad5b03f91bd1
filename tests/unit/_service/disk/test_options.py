# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of vm_disk, before the catalog is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.options import (
    VM_OPTIONS,
    AttachSpec,
    DiskSpec,
    VmSpec,
    parse_vm,
)
from refusal import refused


def complete(options: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as Ansible completes them."""
    found: dict[str, Any] = {}
    for name, option in declared.items():
        value = options.get(name, option.get("default"))
        if isinstance(value, list):
            value = [complete(one, option["options"]) for one in value]
        elif isinstance(value, Mapping):
            value = complete(value, option["options"])
        found[name] = value
    assert set(options) <= set(declared)
    return found


def parse(**options: Any) -> VmSpec:
    return parse_vm(complete({"vm": "web", **options}, VM_OPTIONS))


def test_one_disk_at_the_top_level_is_disk_0() -> None:
    assert parse(image="debian", size="20G", attach={}).disks == (
        DiskSpec(0, image="debian", size=20480, attach=AttachSpec()),
    )


def test_disks_of_a_list_have_their_positions_for_numbers() -> None:
    found = parse(disks=[{"image": "a"}, {"disk": 7, "size": 100, "fs": "swap"}, {"image": "b", "clone": "linked"}])
    assert [(one.disk_id, one.image, one.size, one.fs, one.linked) for one in found.disks] == [
        (0, "a", None, None, None),
        (7, None, 100, "swap", None),
        (2, "b", None, None, True),
    ]


def test_only_a_vm_without_any_option_of_a_disk_is_removed() -> None:
    assert parse(state="absent").absent
    one = parse(state="absent", disk=3)
    assert (one.absent, one.disks) == (False, (DiskSpec(3, absent=True),))
    listed = parse(disks=[{"disk": 3, "state": "absent"}])
    assert (listed.absent, listed.disks) == (False, (DiskSpec(3, absent=True),))


def test_a_disk_is_removed_by_its_number_only() -> None:
    with refused(
        InvalidInput,
        says="image: 'debian' is not accepted: a single disk is removed by its number, which is given as disk; without "
        "any option of a disk, state=absent removes the whole VM.",
    ):
        parse(image="debian", state="absent")


def test_the_state_of_a_list_is_that_of_its_disks() -> None:
    with refused(
        InvalidInput,
        says="state: 'absent' is not accepted: with disks, each disk of that list has its own state; without disks, "
        "the whole VM is removed.",
    ):
        parse(disks=[{"size": "1G"}], state="absent")


def test_exclusive_needs_a_list() -> None:
    with refused(
        InvalidInput,
        says="exclusive: True is not accepted: it goes with disks, the list of all disks that the VM keeps.",
    ):
        parse(size="1G", exclusive=True)
    assert parse(disks=[], exclusive=True).exclusive


@pytest.mark.parametrize(
    ("options", "option", "accepted"),
    [
        ({"disks": [{"size": 1}], "size": 1}, "size", "with disks, it is given for each disk of that list"),
        (
            {"disks": [{"size": 1}, {"size": 1, "disk": 0}]},
            "disk",
            "each disk of the list needs another number; the default is its position, beginning at 0",
        ),
        ({"disk": -1, "size": 1}, "disk", "a number from 0 to 999999999 is expected"),
        ({"disk": 10**9, "size": 1}, "disk", "a number from 0 to 999999999 is expected"),
        ({"size": 0}, "size", "1 MiB to 67108864 MiB are expected"),
        ({"size": "65T"}, "size", "1 MiB to 67108864 MiB are expected"),
        ({"size": "a lot"}, "size", "a number of MiB is expected, or one with G or T, such as 10G"),
        (
            {"image": "a", "format": "raw"},
            "format",
            "a disk of an image has the data and the format of the image",
        ),
        ({"image": "a", "fs": "ext4"}, "fs", "a disk of an image has the data and the format of the image"),
        ({"size": 1, "clone": "full"}, "clone", "it goes with image"),
        ({"size": 1, "fs": "swap", "format": "qcow2"}, "format", "swap space is raw"),
        (
            {"size": 1, "attach": {"state": "absent", "bus": "virtio"}},
            "attach.bus",
            "a disk with attach.state=absent has no device",
        ),
        ({"vm": None}, "vm", "the name or the id of a VM is expected"),
    ],
)
def test_a_refused_option(options: dict[str, Any], option: str, accepted: str) -> None:
    with refused(InvalidInput, option=option, accepted=accepted):
        parse(**options)


@pytest.mark.parametrize(
    ("option", "value"),
    [("vm", " web"), ("vm", "a\nb"), ("vm", ""), ("host", "-oProxyCommand=x"), ("host", "a b"), ("domain", "a/b")],
)
def test_a_hostile_name(option: str, value: str) -> None:
    with refused(InvalidInput, option=option, value=value):
        parse(**{option: value})
