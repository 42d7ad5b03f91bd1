# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import records
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput, NotFound
from ansible_collections.granary.vmstore.plugins.module_utils._model.vm import Vm, VmDisk, VmSnapshot
from refusal import refused

VOLATILE = VmDisk(disk_id=0, type="swap", size_mb=16)
DISK = VmDisk(
    disk_id=3,
    type="file",
    size_mb=64,
    format="qcow2",
    source="/ds/1/a",
    snapshots=(VmSnapshot(0, False), VmSnapshot(4, True)),
)
VM = Vm(
    id=7,
    name="web",
    state=3,
    lcm_state=3,
    host="h1",
    system_datastore_id=100,
    tm_mad="ssh",
    vm_mad="kvm",
    disks=(VOLATILE, DISK),
)


def test_a_disk_is_found_by_its_id() -> None:
    assert VM.disk(3) is DISK
    with refused(NotFound, says="The VM 7 has no disk 1 (known disks: 0, 3)."):
        VM.disk(1)
    with refused(NotFound, names=[7, "none"]):
        records.replace(VM, disks=()).disk(0)


def test_a_missing_value_is_never_an_empty_text() -> None:
    assert (DISK.require_format(), DISK.require_source()) == ("qcow2", "/ds/1/a")
    with refused(InvalidInput, says="FORMAT of the disk 0 is missing: this action needs it."):
        VOLATILE.require_format()
    with refused(InvalidInput, option="SOURCE of the disk 0", value=None):
        VOLATILE.require_source()


@pytest.mark.parametrize(("lcm_state", "is_gone"), [(3, False), (26, False), (60, True), (61, True), (62, False)])
def test_the_states_in_which_the_host_is_gone(lcm_state: int, is_gone: bool) -> None:
    assert records.replace(VM, lcm_state=lcm_state).is_host_gone is is_gone
