#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: datastore_info
short_description: Read datastores, their capacity and what is in them
description:
  - Reads the datastores of the catalog, their capacity, the disk usage of each image, and the data that belongs to no
    image.
  - With O(vms=true), it also looks at the hosts of virtual machines (VMs), and returns the capacity and the disk usage
    there. All hosts are contacted at once, over one ssh connection each. A host that is down is returned with
    RV(datastores[].hosts[].monitor_error).
  - A file system that doesn't respond delays nothing beyond O(timeout). Its datastore is returned with
    RV(datastores[].monitor_error).
  - Runs on the front-end.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
options:
  name:
    description: Name or id of a datastore. Without it, all datastores are returned.
    type: str
  vms:
    description: Whether to look at the disks of VMs in system datastores, on their hosts.
    type: bool
    default: false
  timeout:
    description: Upper bound of the seconds for all requests of the front-end to the file system of one datastore, from
      1 to 86400.
    type: int
    default: 30
seealso:
  - module: granary.vmstore.datastore
  - module: granary.vmstore.datastore_check
  - module: granary.vmstore.vm_disk_info
"""

EXAMPLES = r"""
- name: Read all datastores
  granary.vmstore.datastore_info:
  register: result

- name: Show how much is free in the default one
  ansible.builtin.debug:
    msg: "{{ (result.datastores | selectattr('id', 'eq', 1) | first).free_mb }} MiB"

- name: Read the system datastores on the hosts
  granary.vmstore.datastore_info:
    vms: true
  register: result

- name: Show hosts that are down
  ansible.builtin.debug:
    msg: "{{ result.datastores | map(attribute='hosts') | flatten | rejectattr('monitor_error', 'none') }}"

- name: Show the images that take most on disk
  ansible.builtin.debug:
    msg: >-
      {{ result.datastores | map(attribute='images') | flatten | selectattr('allocated_bytes')
      | sort(attribute='allocated_bytes', reverse=true) }}
"""

RETURN = r"""
datastores:
  description: The datastores, by id.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 100
      name: fs_datastore
      type: image
      ds_driver: virtiofs
      tm_driver: virtiofs
      base_path: /var/lib/one/datastores/100
      clusters: [0]
      safe_dirs: []
      restricted_dirs: []
      bridge_list: []
      attributes: {}
      shared: false
      marker:
      images:
        - id: 0
          name: fs_data
          path: /mnt/data
          format: dir
          allocated_bytes:
          virtual_bytes:
          snapshots: []
      orphans: []
      used_mb: 0
      free_mb: 0
      total_mb: 0
      monitor_error:
      hosts: []
      vms: []
      supports:
        clone: false
        content: false
        export: false
        mkfs: false
        resize: false
        snapshot: false
  contains:
    id:
      description: Its id. Ids are given from 100 on and never twice.
      type: int
    name:
      description: Its name.
      type: str
    type:
      description: Its type.
      type: str
    ds_driver:
      description: Its datastore driver, or null for a system datastore.
      type: str
    tm_driver:
      description: Its transfer driver.
      type: str
    base_path:
      description: Its directory.
      type: str
    clusters:
      description: Ids of the clusters that it belongs to.
      type: list
      elements: int
    safe_dirs:
      description: Directories that images can be made of although they lie in restricted ones.
      type: list
      elements: str
    restricted_dirs:
      description: Directories that images can't be made of, besides those that are always restricted.
      type: list
      elements: str
    bridge_list:
      description: Hosts that hold what isn't on the front-end.
      type: list
      elements: str
    attributes:
      description: Further attributes.
      type: dict
    shared:
      description: Whether its directory must be on a mounted shared file system.
      type: bool
    marker:
      description: UUID of the store that must be mounted, or null.
      type: str
    images:
      description: Its images, by id.
      type: list
      elements: dict
      contains:
        id:
          description: Its id.
          type: int
        name:
          description: Its name.
          type: str
        path:
          description: The file that holds its data or, for type V(filesystem), the directory.
          type: str
        format:
          description: Format of its data, such as V(raw) or V(qcow2); V(dir) for type V(filesystem).
          type: str
        allocated_bytes:
          description:
            - Bytes that its data takes on disk, without its snapshots.
            - Null where the data is missing, in datastores that store no data, and where RV(datastores[].monitor_error)
              says why it isn't known.
          type: int
        virtual_bytes:
          description: Bytes that a domain sees. Null like RV(datastores[].images[].allocated_bytes), and where the data
            isn't in this format.
          type: int
        snapshots:
          description: Its snapshots, by id.
          type: list
          elements: dict
          contains:
            id:
              description: Its id.
              type: int
            allocated_bytes:
              description: Bytes that it takes on disk.
              type: int
    orphans:
      description:
        - Data in its directory that belongs to no image of the catalog. M(granary.vmstore.datastore_check) removes it.
        - Data of an image that is just being made is one, too, until the image is in the catalog.
      type: list
      elements: dict
      contains:
        path:
          description: Its path.
          type: str
        allocated_bytes:
          description: Bytes that it takes on disk, with its snapshots.
          type: int
    used_mb:
      description: MiB that are used, 0 for a datastore that stores no data, or null where
        RV(datastores[].monitor_error) says why it isn't known.
      type: int
    free_mb:
      description: MiB that are free, like RV(datastores[].used_mb).
      type: int
    total_mb:
      description: MiB in all, like RV(datastores[].used_mb).
      type: int
    monitor_error:
      description: Why the capacity, or what is in the datastore, could not be read, or null.
      type: str
    hosts:
      description: With O(vms=true), the hosts of a system datastore that have VMs there, by name.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the host.
          type: str
        used_mb:
          description: MiB that are used in the host's file system, or null.
          type: int
        free_mb:
          description: MiB that are free, or null.
          type: int
        total_mb:
          description: MiB in all, or null.
          type: int
        monitor_error:
          description: Why the host could not be looked at, or null.
          type: str
    vms:
      description: With O(vms=true), the VMs of a system datastore, by id.
      type: list
      elements: dict
      contains:
        id:
          description: Id of the VM.
          type: int
        name:
          description: Name of the VM.
          type: str
        host:
          description: Host of the VM.
          type: str
        disks:
          description:
            - The disks, by number. A disk has only its number if the host could not be looked at, or while the disk is
              created.
            - Further keys of a disk are those of RV(granary.vmstore.vm_disk_info#module:vms[].disks[].world).
          type: list
          elements: dict
          contains:
            disk:
              description: Number of the disk.
              type: int
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
              description: The snapshots, each with C(id) and C(allocated_mb).
              type: list
              elements: dict
            is_used:
              description: Whether a program such as QEMU has the disk open.
              type: bool
    supports:
      description: Which optional operations its driver has.
      type: dict
      contains:
        clone:
          description: Whether images can be cloned.
          type: bool
        content:
          description: Whether this host can read the data of images, such as for M(granary.vmstore.image_export).
          type: bool
        export:
          description: Whether images can be exported to another place.
          type: bool
        mkfs:
          description: Whether empty images can be made.
          type: bool
        resize:
          description: Whether images and disks can be resized.
          type: bool
        snapshot:
          description: Whether disks can have snapshots.
          type: bool
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import (
    DATASTORE_INFO_SPEC,
    datastore_info,
)


def main() -> None:
    run_info_module(DATASTORE_INFO_SPEC, datastore_info)


if __name__ == "__main__":
    main()
