#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_disk_snapshot
short_description: Manage snapshots of the disks of virtual machines
description:
  - Takes, removes and reverts to a snapshot of a disk that M(granary.vmstore.vm_disk) manages.
  - A running virtual machine (VM) keeps running. RV(live) tells whether the VM ran.
  - A disk of layers (qcow2 with the transfer drivers V(local), V(shared) and V(qcow2)) gets a new overlay, so a
    snapshot takes no time and no space at first. For any other disk, a snapshot is a whole copy. The guest of a running
    VM doesn't write during the copy.
  - The guest agent freezes the file systems of the guest before a live snapshot, if the agent responds. Otherwise the
    processors of the guest stop for a moment, so the snapshot is as after a power failure.
  - Snapshots stay with their disk, also when the VM moves or a persistent image returns to its datastore.
  - Runs on the front-end, as root or as the service user, like M(granary.vmstore.vm_disk).
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  vm:
    description: Name or id of the VM.
    type: str
    required: true
  disk:
    description: Number of the disk.
    type: int
    default: 0
  name:
    description:
      - Name of the snapshot, unique for the disk.
      - A name has 1 to 128 printable characters and no blank at either end. It is not only digits.
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot, unless the disk has one of this name.
      - V(absent) removes the snapshot. The disk and its other snapshots keep their data.
      - V(reverted) gives the disk the data of the snapshot, and the present data of the disk is lost. The snapshot
        stays. The VM has to be shut off.
    type: str
    choices: [present, absent, reverted]
    default: present
seealso:
  - module: granary.vmstore.vm_disk
  - module: granary.vmstore.image_snapshot
"""

EXAMPLES = r"""
- name: Take a snapshot before an upgrade
  granary.vmstore.vm_disk_snapshot:
    vm: web
    name: before upgrade

- name: Take the upgrade back. The VM is shut off
  granary.vmstore.vm_disk_snapshot:
    vm: web
    name: before upgrade
    state: reverted

- name: Remove the snapshot of another disk
  granary.vmstore.vm_disk_snapshot:
    vm: web
    disk: 1
    name: before upgrade
    state: absent
"""

RETURN = r"""
vm:
  description: Name of the VM.
  returned: success
  type: str
  sample: web
disk:
  description: Number of the disk.
  returned: success
  type: int
  sample: 0
live:
  description: Whether the VM runs, or another program uses the disk.
  returned: success
  type: bool
  sample: true
snapshots:
  description: The snapshots of the disk afterwards, or in check mode as they would be. The disk continues from the
    active one.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 0
      name: before upgrade
      active: true
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create snapshot
      subject: disk 0 of VM 'web'
      before: null
      after:
        id: 0
        name: before upgrade
        active: true
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.snapshot import (
    VM_DISK_SNAPSHOT_SPEC,
    VmDiskSnapshotService,
)


def main() -> None:
    run_module(VM_DISK_SNAPSHOT_SPEC, VmDiskSnapshotService)


if __name__ == "__main__":
    main()
