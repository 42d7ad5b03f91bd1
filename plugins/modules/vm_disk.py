#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_disk
short_description: Manage the disks of virtual machines
description:
  - Creates, grows, attaches, moves and removes the disks of virtual machines on hosts, of one or many virtual machines
    in a run. A disk comes from an image of the catalog, or begins empty.
  - The first disk reaches a virtual machine in one task. The module copies the image to the host, and plugs the disk
    into the libvirt domain with O(attach).
  - A virtual machine (VM) has a name and an id in the catalog. Its disks are files C(disk.0), C(disk.1) and so on in
    the directory C(<datastores>/<system datastore>/<id of the VM>) of its host.
  - Runs on the front-end, as root or as the service user. Hosts are reached over ssh with the keys of this user, one
    connection a host for any number of VMs.
  - On the hosts, this user needs the right to use libvirt for O(attach), and to read the disks of running domains,
    which libvirt gives to the user of QEMU by default. Root has both.
  - The transfer drivers of the image's datastore and of the system datastore do the work. With V(local) and V(ssh), a
    disk is a copy on the host. With V(shared) and V(qcow2), hosts and front-end see the same directories, so that a
    persistent image is a link and the clone of a qcow2 image an overlay.
  - A disk that exists and is missing on its host is created again. The exception are disks of persistent images, whose
    data is the only copy. A file in the place of a disk that the catalog doesn't know is never replaced.
  - An image that is a disk, or the backing file of one, can't be removed or replaced with M(granary.vmstore.image).
  - Invalid requests are refused before anything is changed, also a host without room for a copy.
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
    description:
      - Name of the VM, or the id of one that exists.
      - A name has 1 to 128 printable characters and no blank at either end. It is not only digits, because digits are
        an id.
    type: str
  domain:
    description: Name of the libvirt domain. The default for a new VM is its name.
    type: str
  host:
    description:
      - Name or address of the host with the disks. The default for a new VM is this machine.
      - Another host than before moves all disks of the VM. A VM is refused to move while it runs, or while a program
        uses one of its disks. The module does not move the libvirt domain.
    type: str
  datastore:
    description:
      - Name or id of a datastore of type V(system) with the disks. The default for a new VM is the datastore V(0).
      - Another datastore than before moves all disks of the VM, like O(host). Both need the same transfer driver.
    type: str
  disks:
    description:
      - The disks of the VM. Each element has the options of a single disk, from O(disk) to O(state).
      - A disk without O(disk) has its position in the list for a number, beginning at 0.
      - Disks that are not in the list stay, unless O(exclusive=true).
      - Not together with the options of a single disk.
    type: list
    elements: dict
  exclusive:
    description: Removes the disks of the VM that are not in O(disks), like O(state=absent).
    type: bool
    default: false
  disk:
    description: Number of the disk. The default is 0, or in O(disks) the position in the list.
    type: int
  image:
    description:
      - Name or id of the image that the disk is made of, of type V(os), V(datablock) or V(cdrom) in raw or qcow2
        format.
      - A persistent image is the disk of one VM only, which changes the image. The data goes back to the datastore
        when the disk is removed. Every other disk is a clone.
    type: str
  size:
    description:
      - Size of the disk in MiB, or with a unit, V(20G) or V(1T). A new disk without O(image) needs a size. The default
        for a disk with an image is the size of the image.
      - A larger size grows a disk, also of a running domain that has the disk. A smaller one needs O(force).
    type: str
  format:
    description: Format of a new empty disk. The default is V(raw). A disk with an image has the format of the image.
    type: str
    choices: [raw, qcow2]
  fs:
    description: File system to create in a new empty disk, such as V(ext4) or V(xfs), or V(swap) for swap space.
    type: str
  clone:
    description:
      - V(linked) makes the clone of a qcow2 image an overlay, which stores only the changes and needs the image.
        The transfer driver must be V(shared) or V(qcow2).
      - V(full) copies the data of the image.
      - The default is V(linked) where it is possible.
    type: str
    choices: [linked, full]
  force:
    description: Lets the disk shrink to a smaller O(size). The VM has to be shut off, the disk has no snapshots and is
      no overlay, and the end that is cut off must hold no data. Otherwise the run fails, and the disk stays as it is.
    type: bool
  attach:
    description:
      - The device of the disk in the libvirt domain on the host. The disk is plugged in at once if the domain runs and
        the bus allows it, and in the definition of the domain. Otherwise RV(disks[].restart_required) is true.
      - Without this option, the domain stays as it is.
    type: dict
    suboptions:
      target:
        description: Name of the device, such as V(vda). The default for a new device is the first free name of the bus.
        type: str
      bus:
        description: Bus of the device. The default is V(virtio), and V(sata) for an image of type V(cdrom). A running
          domain gets and loses disks on V(virtio) and V(scsi).
        type: str
        choices: [virtio, scsi, sata]
      read_only:
        description: Whether the guest can only read. The default for a new device is that of the image.
        type: bool
      shareable:
        description: Whether several domains may write to the disk at the same time, which has to be raw. The default
          for a new device is V(false).
        type: bool
      state:
        description: V(absent) unplugs the disk from the domain and keeps its data.
        type: str
        choices: [present, absent]
        default: present
  state:
    description:
      - V(present) creates the disks, or changes them.
      - V(absent) with O(disk) removes this disk, which is unplugged from the domain first. Without any option of a
        disk, it removes the VM with all its disks and its directory, and is refused while the VM runs.
      - The data of a persistent image goes back to its datastore. All other data is lost.
    type: str
    choices: [present, absent]
    default: present
  vms:
    description:
      - Many VMs in one run, for the cost of one. Each element has the options of a single VM, from O(vm) to O(state),
        with the same defaults.
      - The catalog is read once, and each host is looked at over one connection.
      - Not together with the options of a single VM.
    type: list
    elements: dict
seealso:
  - module: granary.vmstore.vm_disk_info
  - module: granary.vmstore.image
  - module: granary.vmstore.vm_context
"""

EXAMPLES = r"""
- name: Give a defined domain its first disk, a clone of an image
  granary.vmstore.vm_disk:
    vm: web
    host: host01
    image: debian-13
    size: 20G
    attach: {}
  delegate_to: frontend

- name: Give a VM a system disk, a data disk that outlives it, and swap space
  granary.vmstore.vm_disk:
    vm: db
    host: host01
    disks:
      - image: debian-13
        attach:
          target: vda
      - image: db-data  # a persistent image
        attach:
          target: vdb
      - size: 4G
        fs: swap
        attach:
          target: vdc
  delegate_to: frontend

- name: Move a VM that is shut off to another host
  granary.vmstore.vm_disk:
    vm: db
    host: host02
  delegate_to: frontend

- name: Remove one disk
  granary.vmstore.vm_disk:
    vm: db
    disk: 2
    state: absent
  delegate_to: frontend

- name: Remove a VM with all its disks. The data of db-data goes back to its datastore
  granary.vmstore.vm_disk:
    vm: db
    state: absent
  delegate_to: frontend

- name: Make the disks of many VMs
  granary.vmstore.vm_disk:
    vms:
      - vm: web1
        host: host01
        image: debian-13
      - vm: web2
        host: host02
        image: debian-13
  delegate_to: frontend
"""

RETURN = r"""
disks:
  description: The disks of the VM after the run.
  returned: without O(vms)
  type: list
  elements: dict
  sample:
    - vm: 0
      disk: 0
      host: host01
      path: /var/lib/one/datastores/0/0/disk.0
      format: qcow2
      size_mb: 20480
      fs:
      image: debian-13
      persistent: false
      clone: full
      backing_chain: []
      target: vda
      bus: virtio
      read_only: false
      shareable: false
      restart_required: false
      restart_reasons: []
  contains:
    vm:
      description: Id of the VM.
      type: int
    disk:
      description: Number of the disk.
      type: int
    host:
      description: Host with the disk.
      type: str
    path:
      description: Path of the disk on the host.
      type: str
    format:
      description: Format of the data, V(raw) or V(qcow2).
      type: str
    size_mb:
      description: Size that the guest sees, in MiB.
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
    backing_chain:
      description: Paths of the files that a qcow2 disk is based on, the nearest first.
      type: list
      elements: str
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
    restart_required:
      description: Whether the domain gets the disk as described only when it is shut off and started.
      type: bool
    restart_reasons:
      description: The reasons for that.
      type: list
      elements: str
vm:
  description: The VM after the run.
  returned: O(state=present) without O(vms)
  type: dict
  sample:
    id: 0
    name: web
    domain: web
    host: host01
    datastore: system
    directory: /var/lib/one/datastores/0/0
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
vms:
  description: The VMs after the run, in the order of O(vms), each like RV(vm) and with its RV(disks). VMs that are
    absent are left out.
  returned: with O(vms)
  type: list
  elements: dict
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create disk
      subject: disk 0 of VM 'web'
      before:
      after:
        path: host01:/var/lib/one/datastores/0/0/disk.0
        image: debian-13
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.disks import VmDiskService
from ansible_collections.granary.vmstore.plugins.module_utils._service.disk.options import VM_DISK_SPEC


def main() -> None:
    run_module(VM_DISK_SPEC, VmDiskService)


if __name__ == "__main__":
    main()
