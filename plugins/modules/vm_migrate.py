#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_migrate
short_description: Migrate a virtual machine to another host
description:
  - Migrates a virtual machine (VM), whose disks M(granary.vmstore.vm_disk) manages, with its libvirt domain and its
    disks to another host.
  - A running VM migrates live, so its guest runs on. On datastores that the hosts don't share, the disks are copied
    meanwhile, with their snapshots.
  - The domain of a VM that is shut off moves with its definition. It must have no UEFI variables and no emulated TPM,
    because only a running domain takes them along.
  - C(autostart) of the domain goes along. In the catalog, the attachments of images to the domain get the new host.
  - Before anything is changed, both hosts are checked. An error lists everything that prevents the migration.
  - After an error, the guest runs on at its host, and nothing stays at the target.
  - If a run was killed, the next run completes the migration or begins again.
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
requirements:
  - libvirt and its Python library (C(python3-libvirt)) on both hosts
  - ssh access from each host to the other for the user of the operations, which the role C(cluster_ssh) grants. This
    user needs the right to use libvirt on both hosts.
  - Open TCP ports 49152 to 49215 on the target, at the address that the host's name has. QEMU sends the memory and the
    disks of a live migration there, without encryption.
options:
  vm:
    description: Name or id of the VM.
    type: str
    required: true
  host:
    description: Name or address of the host on which the VM is to be. Nothing is changed if the VM is on it.
    type: str
    required: true
  mode:
    description:
      - V(live) migrates a running VM. V(cold) migrates a VM that is shut off.
      - V(auto) is V(live) for a running VM, otherwise V(cold).
    type: str
    choices: [auto, live, cold]
    default: auto
  timeout:
    description:
      - Upper bound of the time of a live migration in seconds. Then the migration is stopped, and the guest runs on at
        its host.
    type: int
    default: 3600
  bandwidth:
    description: Upper bound of the bandwidth of a live migration in MiB/s. By default there is none.
    type: int
  auto_converge:
    description:
      - Whether libvirt slows the guest down in a live migration until its memory can be copied. Otherwise the
        migration of a guest that writes faster than the network doesn't end.
    type: bool
    default: false
seealso:
  - module: granary.vmstore.vm_disk
  - module: granary.vmstore.cluster_ssh
"""

EXAMPLES = r"""
- name: Migrate a VM, live if it runs
  granary.vmstore.vm_migrate:
    vm: web
    host: host02

- name: Clear a host for maintenance
  granary.vmstore.vm_migrate:
    vm: "{{ item }}"
    host: host02
    mode: live
    timeout: 600
    auto_converge: true
  loop: [web, db]
"""

RETURN = r"""
vm:
  description: Name of the VM.
  returned: success
  type: str
  sample: web
host:
  description: Host of the VM afterwards, or in check mode as it would be.
  returned: success
  type: str
  sample: host02
mode:
  description: V(live) or V(cold), or null if the VM is on the host already.
  returned: success
  type: str
  sample: live
disks:
  description: The disks whose data is copied. Disks on shared datastores are left out.
  returned: success
  type: list
  elements: dict
  contains:
    disk:
      description: Number of the disk.
      type: int
    bytes:
      description: Storage of the file that receives the writes, before the migration.
      type: int
  sample:
    - disk: 0
      bytes: 1073741824
bytes:
  description: Sum of the bytes of these disks.
  returned: success
  type: int
  sample: 1073741824
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: migrate VM
      subject: web
      before:
        host: host01
      after:
        host: host02
        mode: live
        disks:
          - disk: 0
            bytes: 1073741824
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.migrate.options import VM_MIGRATE_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.migrate.service import VmMigrateService


def main() -> None:
    run_module(VM_MIGRATE_SPEC, VmMigrateService)


if __name__ == "__main__":
    main()
