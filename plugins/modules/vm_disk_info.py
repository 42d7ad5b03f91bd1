#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_disk_info
short_description: Read the disks of virtual machines
description:
  - Reads the virtual machines (VMs) of the catalog with their disks.
  - With O(world=true), it looks at each disk on its host as well. All hosts are contacted at once, over one connection
    each. A host that is down is returned with RV(vms[].world_error).
  - Runs on the front-end, like M(granary.vmstore.vm_disk).
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
options:
  vm:
    description: Name or id of a VM. Without it, all VMs are returned.
    type: str
  host:
    description: Name of a host, to return its VMs only.
    type: str
  image:
    description: Name or id of an image, to return only VMs with a disk of this image.
    type: str
  world:
    description: Whether to look at the disks on the hosts.
    type: bool
    default: false
seealso:
  - module: granary.vmstore.vm_disk
"""

EXAMPLES = r"""
- name: Read the disks of a VM, and how they are on its host
  granary.vmstore.vm_disk_info:
    vm: web
    world: true
  register: result

- name: Show which disks are in use
  ansible.builtin.debug:
    msg: "{{ result.vms[0].disks | selectattr('world.is_used') | map(attribute='path') }}"
"""

RETURN = r"""
vms:
  description: The VMs, by id.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 0
      name: web
      domain: web
      host: host01
      datastore: system
      directory: /var/lib/one/datastores/0/0
      state: ready
      world_error:
      disks: []
  contains:
    id:
      description: Its id. Ids are given from 0 on and never twice.
      type: int
    name:
      description: Its name.
      type: str
    domain:
      description: Name of its libvirt domain.
      type: str
    host:
      description: Its host.
      type: str
    datastore:
      description: Name of its system datastore.
      type: str
    directory:
      description: Its directory on the host.
      type: str
    state:
      description: V(ready), V(new) while the VM is created, or V(leaving) while it is removed. A killed run leaves the
        latter two, and the next run with M(granary.vmstore.vm_disk) completes its work.
      type: str
    world_error:
      description: Why the host could not be looked at, or null.
      type: str
    disks:
      description: Its disks.
      type: list
      elements: dict
      contains:
        disk:
          description: Number of the disk.
          type: int
        path:
          description: Path of the disk on the host.
          type: str
        format:
          description: Format of the data, V(raw) or V(qcow2).
          type: str
        size_mb:
          description: Recorded size in MiB.
          type: int
        fs:
          description: File system that was made in an empty disk, or null.
          type: str
        image:
          description: Name of the image, or null for a disk that began empty.
          type: str
        persistent:
          description: Whether the data goes back to the image.
          type: bool
        clone:
          description: V(linked) or V(full), or null for a disk that is no clone.
          type: str
        target:
          description: Name of the device in the domain, or null for a disk that is not attached.
          type: str
        bus:
          description: Bus of the device, or null.
          type: str
        read_only:
          description: Whether the guest can only read.
          type: bool
        shareable:
          description: Whether several domains may write to the disk.
          type: bool
        state:
          description: V(ready), V(new) or V(leaving), as for the VM.
          type: str
        snapshots:
          description: The recorded snapshots, each with C(id), C(name) and C(active).
          type: list
          elements: dict
        world:
          description: The disk on the host with O(world=true), or null.
          type: dict
          contains:
            exists:
              description: Whether the disk exists. Without it, only the error is returned.
              type: bool
            error:
              description: What is in the place of the disk, or null.
              type: str
            size_mb:
              description: Size that the guest sees, in MiB.
              type: int
            allocated_mb:
              description: Storage of the file that receives the writes, in MiB, rounded up.
              type: int
            chain:
              description: Paths of the files with the data, each before its backing file.
              type: list
              elements: str
            snapshots:
              description: The snapshots, by id.
              type: list
              elements: dict
              contains:
                id:
                  description: Its id.
                  type: int
                allocated_mb:
                  description: Storage of its file in MiB, rounded up. Other snapshots can need the same file.
                  type: int
            is_used:
              description: Whether a program such as QEMU has the disk open.
              type: bool
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.info import VM_DISK_INFO_SPEC, vm_disk_info


def main() -> None:
    run_info_module(VM_DISK_INFO_SPEC, vm_disk_info)


if __name__ == "__main__":
    main()
