#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: domain_volumes_info
short_description: Read the disks, filesystems and volumes of libvirt domains in KubeVirt's model
description:
  - Reads the definition of a domain, and returns the options of M(granary.vmstore.domain_volumes) that give the same
    devices again. So a domain that exists can be turned into a play.
  - The source of a volume is found from its data. An image of the catalog is a C(persistent_volume_claim), or a
    C(data_volume) if it goes with the domain. Files that M(granary.vmstore.domain_volumes) has made are the volumes
    that they were made for. Any other raw file or block device is a C(host_disk).
  - A disk without an alias of this collection has the name of its target, such as V(vda).
    M(granary.vmstore.domain_volumes) adopts the disk under this name.
  - Options with default values are left out. Where a domain has no value for a cache, for input and output or for
    errors, the value that QEMU uses then is returned, so that the domain works as before.
  - Texts are never returned, because they can be secrets. A disk with texts is returned as a config map if nothing
    else is known, also if a secret, a service account or fields of the metadata were declared.
  - PCI addresses aren't returned, because M(granary.vmstore.domain_volumes) keeps those of a domain that exists.
  - Runs on the hypervisor, as root.
author:
  - The granary.vmstore developers (@granary)
requirements:
  - python3-libvirt
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
options:
  domain:
    description: Name or UUID of a domain. Without it, all domains of this host are read.
    type: str
  claims:
    description:
      - Images for claims, as RV(granary.vmstore.image_info#module:images) has them, on a host without the catalog. See
        O(granary.vmstore.domain_volumes#module:claims).
    type: list
    elements: dict
  directory:
    description: The directory with the data of volumes, see O(granary.vmstore.domain_volumes#module:directory).
    type: path
    default: /var/lib/libvirt/granary-vmstore/volumes
  cache:
    description: The directory of M(granary.vmstore.container_disk_cache).
    type: path
    default: /var/lib/libvirt/granary-vmstore/container-disks
  uri:
    description: URI of libvirt on this host.
    type: str
    default: qemu:///system
seealso:
  - module: granary.vmstore.domain_volumes
  - module: granary.vmstore.container_disk_cache_info
  - module: granary.vmstore.virtiofs_export_info
"""

EXAMPLES = r"""
- name: Read the volumes of a domain
  granary.vmstore.domain_volumes_info:
    domain: web1
  register: found

- name: Show what can't be declared, and what another run would change
  ansible.builtin.debug:
    msg: "{{ found.domains[0].left_out + found.domains[0].warnings }}"

- name: Write the declaration to a file with variables, where texts are still missing
  ansible.builtin.copy:
    content: "{{ {'web1': found.domains[0].declaration} | to_nice_yaml }}"
    dest: /root/web1.yml
    mode: "0600"

- name: Spread the disks that the domain has over threads for input and output
  granary.vmstore.domain_volumes:
    domain: web1
    disks: "{{ found.domains[0].declaration.disks }}"
    volumes: "{{ found.domains[0].declaration.volumes }}"
    io_threads_policy: auto
"""

RETURN = r"""
domains:
  description: The domains by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
      sample: web1
    uuid:
      description: UUID of the domain.
      type: str
      sample: 90b11b1b-ae15-4ac6-9c52-399f36ea6e11
    running:
      description: Whether the domain runs. The declaration is that of the definition.
      type: bool
    declaration:
      description:
        - The options of M(granary.vmstore.domain_volumes). Those with default values are left out.
      type: dict
      sample:
        disks:
          - name: root
            disk:
              bus: virtio
            boot_order: 1
          - name: cloudinit
            cdrom:
              bus: sata
        volumes:
          - name: root
            persistent_volume_claim:
              claim_name: web1-root
          - name: cloudinit
            cloud_init_no_cloud:
              secret_ref:
                name: cloudinit
    texts_needed:
      description: The texts that the user adds to the declaration, because they aren't returned.
      type: list
      elements: dict
      contains:
        option:
          description: The option of M(granary.vmstore.domain_volumes) that has the texts.
          type: str
          sample: secrets
        name:
          description: The name of the object in the option. It is that of the volume.
          type: str
          sample: cloudinit
        needed_keys:
          description: The keys of the texts.
          type: list
          elements: str
          sample: [userdata]
    left_out:
      description: The disks and filesystems that can't be declared.
      type: list
      elements: dict
      sample:
        - name: vdb
          reason: >-
            /data/b.qcow2 has the format qcow2 and is no image of the catalog: register the file with the module image,
            or name it in the option 'claims'
      contains:
        name:
          description: The name of the device.
          type: str
        reason:
          description: The reason.
          type: str
    warnings:
      description:
        - What M(granary.vmstore.domain_volumes) would change with the declaration, and what isn't known, one sentence
          each.
      type: list
      elements: str
      sample: ["domain_volumes gives the disk 'vda' another model."]
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.info import (
    DOMAIN_VOLUMES_INFO_SPEC,
    domain_volumes_info,
)


def main() -> None:
    run_info_module(DOMAIN_VOLUMES_INFO_SPEC, domain_volumes_info)


if __name__ == "__main__":
    main()
