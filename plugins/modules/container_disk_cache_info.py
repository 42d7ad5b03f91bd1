#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container_disk_cache_info
short_description: Read the container disks on a hypervisor
description:
  - Reads the cache of container disks on this host, with the domains and the programs that use each disk.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
options:
  image:
    description: An image, as in O(granary.vmstore.container_disk_cache#module:image). Without it, all disks are
      returned.
    type: str
  directory:
    description: The directory of the cache.
    type: path
    default: /var/lib/libvirt/granary-vmstore/container-disks
seealso:
  - module: granary.vmstore.container_disk_cache
"""

EXAMPLES = r"""
- name: Read the cache
  granary.vmstore.container_disk_cache_info:
  register: cache

- name: Show the disks that nobody uses
  ansible.builtin.debug:
    msg: "{{ cache.container_disks | rejectattr('users') | map(attribute='names') }}"
"""

RETURN = r"""
container_disks:
  description: The disks, by name. Two images with the same content have the same file.
  returned: success
  type: list
  elements: dict
  sample:
    - file: /srv/container-disks/disks/ef9e6e7ed2651bf83c7d81d839bb62ba52fd77c80e6224667e30d3e1747d85e5
      format: qcow2
      virtual_size: 5368709120
      size: 500170752
      digest: sha256:43087d26d2a87eac549181ccb3e200b87d48ab577bcbb42bcce0f065ff78fbb1
      checksum: sha256:ef9e6e7ed2651bf83c7d81d839bb62ba52fd77c80e6224667e30d3e1747d85e5
      architecture: amd64
      path: /disk/fedora.qcow2
      names: [quay.io/containerdisks/fedora:latest]
      pulled: "2026-08-01T12:00:00Z"
      last_use: "2026-08-02T09:30:00Z"
      users: ["libvirt's domain 'web1'"]
  contains:
    file:
      description: The file of the disk on this host.
      type: str
    format:
      description: Its format, V(raw) or V(qcow2).
      type: str
    virtual_size:
      description: The size of the disk in bytes.
      type: int
    size:
      description: The length of the file in bytes.
      type: int
    digest:
      description: The digest of the image.
      type: str
    checksum:
      description: The checksum of the file.
      type: str
    architecture:
      description: The architecture that was asked for.
      type: str
    path:
      description: The path of the disk in the image.
      type: str
    names:
      description: All names of images that stand for the disk. An image whose name stands for another disk now has
        none.
      type: list
      elements: str
    pulled:
      description: The time of the download.
      type: str
    last_use:
      description: The time when a task last used the disk.
      type: str
    users:
      description: The domains of this host that use the disk, running or not, and the programs that have it open.
      type: list
      elements: str
size:
  description: The storage of all disks of the cache in bytes.
  returned: success
  type: int
  sample: 500170752
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.facts import read_container_disks
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.options import (
    CONTAINER_DISK_CACHE_INFO_SPEC,
)


def main() -> None:
    run_info_module(CONTAINER_DISK_CACHE_INFO_SPEC, read_container_disks)


if __name__ == "__main__":
    main()
