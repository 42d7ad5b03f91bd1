#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: domain_volumes
short_description: Give a libvirt domain the disks, filesystems and volumes of a KubeVirt manifest
description:
  - An existing domain gets exactly the declared disks and filesystems. The declaration has the words of KubeVirt, so
    that the C(disks), C(filesystems) and C(volumes) of a VirtualMachineInstance can be pasted. Each key has KubeVirt's
    spelling (C(claimName)) or the one of Ansible (C(claim_name)).
  - An unknown key is an error that names the nearest known key. All errors of a declaration are reported at once, each
    with its path, such as C(disks[2].lun.bus), and nothing is changed then. RV(problems) has them as data.
  - The data of volumes is made on this host, in O(directory). Data that exists is kept. A file gets its name when it is
    complete.
  - A host disk is in no directory of the system, such as C(/etc), and not in O(directory) or O(cache). A disk with a
    snapshot that another program has created is not changed until that snapshot is removed.
  - A device is recognized by its alias C(ua-<name>). The metadata of the definition records the names of the last run,
    so that devices that aren't declared any more are removed. All other devices, and everything else in the definition,
    stay as they are.
  - A disk without such an alias is adopted if its target, such as V(vda), is the name of a declared disk with the same
    data. M(granary.vmstore.domain_volumes_info) returns the declaration of a domain that exists.
  - libvirt validates the definition before it is changed. The module reads the definition back, and restores the old
    one if libvirt changed anything else.
  - A running domain gets and loses disks on virtio and scsi, and gets other media in its drives, larger disks, and
    changed texts in filesystems. For anything else, RV(restart_required) is true until the domain was stopped and
    started.
  - P(granary.vmstore.vmi_volumes#filter) converts a whole manifest. The guide "KubeVirt's volumes" of this collection
    lists all keys, and the differences from KubeVirt.
  - Runs on the hypervisor, as root.
author:
  - The granary.vmstore developers (@granary)
requirements:
  - python3-libvirt
  - qemu-utils
  - xorriso for volumes with texts as disks
  - virtiofsd for filesystems, see M(granary.vmstore.virtiofs_export)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
  - granary.vmstore._restart
attributes:
  check_mode:
    support: full
    details:
      - Registries are asked for digests, and nothing is downloaded. What depends on an image that isn't pulled or
        imported yet isn't predicted.
  diff_mode:
    support: full
    details:
      - Shows the names of files with texts, and never the texts.
  idempotent:
    support: full
    details:
      - While the domain is off, the data that a guest has written to an ephemeral disk is discarded, which is a change.
options:
  domain:
    description: Name or UUID of the domain. It must be persistent. Exactly one of O(domain) and O(domains) is required.
    type: str
  domains:
    description:
      - Many domains in one run. Each element has the options O(domain), O(claims), and those from O(disks) to
        O(cloud_init_limit). The other options are those of all domains, and so is O(claims), unless a domain has its
        own.
      - A domain that fails doesn't keep the others from their volumes. The run fails at its end.
    type: list
    elements: dict
  disks:
    description:
      - The disks, as in C(spec.domain.devices.disks). Each has a C(name), which is that of its volume, and at most one
        of C(disk), C(lun) and C(cdrom), with C(bus), C(readonly), C(tray), C(reservation) and C(pci_address).
      - Further keys are C(serial), C(boot_order), C(cache), C(io), C(error_policy), C(shareable),
        C(dedicated_io_thread), C(block_size) and C(tag).
      - The metadata of a C(cloud_init_config_drive) describes each disk with a C(tag), with its address and its serial
        number.
    type: list
    elements: dict
    default: []
  filesystems:
    description:
      - The filesystems, as in C(spec.domain.devices.filesystems). Each has a C(name), which is that of its volume and
        the mount tag.
      - Beyond KubeVirt, a filesystem has the options C(read_only), C(cache), C(queue), C(xattr), C(sandbox),
        C(thread_pool), C(uid_map), C(gid_map) and C(allow_unmapped) of M(granary.vmstore.virtiofs_export).
    type: list
    elements: dict
    default: []
  volumes:
    description:
      - The volumes, as in C(spec.volumes). Each has a C(name) and one source.
      - The sources are C(persistent_volume_claim), C(data_volume), C(ephemeral), C(container_disk), C(empty_disk),
        C(host_disk), C(cloud_init_no_cloud), C(cloud_init_config_drive), C(config_map), C(secret), C(service_account),
        C(downward_api), C(sysprep) and C(downward_metrics).
      - A claim is an image of the catalog, by name or id. A domain writes only to an image that is persistent.
      - With C(thick), an empty disk is allocated completely, and no disk discards blocks.
    type: list
    elements: dict
    default: []
  data_volume_templates:
    description:
      - Images that are imported into the catalog of this host if they are missing, as in C(spec.dataVolumeTemplates).
        The sources are C(http), C(registry), C(pvc), C(blank) and C(upload).
      - C(storage_class_name) is the name of a datastore. Without one, the datastore is V(default).
      - An image grows to a larger requested size, and never shrinks.
    type: list
    elements: dict
    default: []
    aliases: [dataVolumeTemplates]
  config_maps:
    description:
      - Config maps by name. Each has C(data) with texts by key, C(binary_data) in base64, or C(directory), a directory
        of this host with a file for each key.
    type: dict
    default: {}
  secrets:
    description:
      - Secrets by name, with the same keys as O(config_maps). Unlike in a manifest of Kubernetes, texts in C(data) are
        plain. Neither results nor logs have the texts.
    type: dict
    default: {}
  service_accounts:
    description: Service accounts by name, with the same keys as O(secrets).
    type: dict
    default: {}
  metadata:
    description:
      - The metadata that the guest reads through cloud-init and C(downward_api), with C(name), C(namespace), C(uid),
        C(hostname), C(instance_type), C(labels), C(annotations) and C(public_keys).
      - The defaults are the name and the UUID of the domain.
    type: dict
    default: {}
  block_multi_queue:
    description: Whether disks on virtio have a queue for each virtual processor.
    type: bool
    default: false
    aliases: [blockMultiQueue]
  io_threads_policy:
    description:
      - The policy for threads of input and output, V(shared), V(auto) or V(supplementalPool).
    type: str
    aliases: [ioThreadsPolicy]
  io_threads:
    description: The number of threads for V(supplementalPool), as C(supplemental_pool_thread_count).
    type: dict
    aliases: [ioThreads]
  downward_metrics:
    description:
      - Whether the guest reads metrics of the host at the virtio-serial port C(org.github.vhostmd.1). The role
        P(granary.vmstore.downward_metrics#role) runs the program that serves the port.
    type: bool
    default: false
    aliases: [downwardMetrics]
  auto_attach:
    description: Whether a volume without a disk and without a filesystem gets an ordinary disk, as in KubeVirt.
    type: bool
    default: true
  virtio_transitional:
    description: Whether disks on virtio support guests with virtio 0.9.
    type: bool
    default: false
    aliases: [useVirtioTransitional]
  disable_hotplug:
    description: Whether the domain gets no SCSI controller unless a disk needs one.
    type: bool
    default: false
    aliases: [disableHotplug]
  cloud_init_limit:
    description: Upper bound of the user data and of the network data in a declaration, in bytes. KubeVirt has 2048.
    type: int
    default: 2048
  claims:
    description:
      - Images for claims, as RV(granary.vmstore.image_info#module:images) has them, on a host without the catalog. Each
        has the keys C(id), C(name), C(path), C(format), C(persistent) and C(read_only). Others are ignored.
    type: list
    elements: dict
  purge:
    description:
      - Whether the data of volumes that aren't declared any more is removed. That is data that this module has made,
        such as empty disks, and images of O(data_volume_templates). The data of claims and host disks always stays.
      - Media with texts are always removed, because the declaration has the texts.
    type: bool
    default: false
  directory:
    description: The directory with the data of volumes, with one directory for each domain.
    type: path
    default: /var/lib/libvirt/granary-vmstore/volumes
  cache:
    description: The cache of container disks, see M(granary.vmstore.container_disk_cache).
    type: path
    default: /var/lib/libvirt/granary-vmstore/container-disks
  insecure:
    description: Whether registries are read by plain HTTP. Registries on loopback addresses always are.
    type: bool
    default: false
  ca_path:
    description: Path of a file with the certificates of the registries' CAs, on this host.
    type: path
  uri:
    description: URI of libvirt on this host.
    type: str
    default: qemu:///system
seealso:
  - module: granary.vmstore.domain_volumes_info
  - module: granary.vmstore.container_disk_cache
  - module: granary.vmstore.image
  - module: granary.vmstore.virtiofs_export
  - module: granary.vmstore.vm_disk
"""

EXAMPLES = r"""
- name: Give a domain a disk of the catalog, an empty disk and data for cloud-init
  granary.vmstore.domain_volumes:
    domain: web1
    disks:
      - name: root
        disk:
          bus: virtio
        bootOrder: 1
      - name: scratch
        disk:
          bus: scsi
        serial: SCRATCH
      - name: cloudinit
        cdrom:
          bus: sata
    volumes:
      - name: root
        persistentVolumeClaim:
          claimName: web1-root
      - name: scratch
        emptyDisk:
          capacity: 10Gi
      - name: cloudinit
        cloudInitNoCloud:
          userData: |
            #cloud-config
            hostname: web1

- name: Run a container disk, and share a config map that changes while the guest runs
  granary.vmstore.domain_volumes:
    domain: web2
    disks:
      - name: os
        disk:
          bus: virtio
    filesystems:
      - name: settings
        virtiofs: {}
    volumes:
      - name: os
        container_disk:
          image: quay.io/containerdisks/debian:12
          capacity: 20Gi
          persistent: true
      - name: settings
        config_map:
          name: app
    config_maps:
      app:
        data:
          app.conf: "workers=4\n"

- name: Give many domains their volumes
  granary.vmstore.domain_volumes:
    domains:
      - domain: web3
        volumes:
          - name: scratch
            empty_disk:
              capacity: 1Gi
      - domain: web4
        volumes:
          - name: scratch
            empty_disk:
              capacity: 1Gi

- name: Take all volumes away, with the data that was made for them
  granary.vmstore.domain_volumes:
    domain: web2
    purge: true
"""

RETURN = r"""
domains:
  description: For O(domains), a dictionary with RV(domain), RV(disks), RV(filesystems) and the restart for each.
  returned: success, with O(domains)
  type: list
  elements: dict
domain:
  description: The name of the domain.
  returned: success, with O(domain)
  type: str
  sample: web1
disks:
  description: The disks of the domain, with the name of the device and the file or block device of the data.
  returned: success
  type: list
  elements: dict
  sample:
    - name: root
      target: vda
      bus: virtio
      source: /var/lib/one/datastores/1/67e1f8cf2102c3374608ac8ab3936eea
filesystems:
  description: The names of the filesystems, which are the mount tags.
  returned: success
  type: list
  elements: str
  sample: [settings]
restart_required:
  description: Whether the domain has to be stopped and started to have what is declared.
  returned: success
  type: bool
restart_reasons:
  description: Why, one sentence each.
  returned: success
  type: list
  elements: str
  sample: [a running domain gets disks on the buses virtio and scsi only, and 'cloudinit' is on 'sata']
problems:
  description:
    - All problems of the declaration, at most 1000. C(path) is the place in the declaration, C(value) the refused
      value, C(accepted) what is accepted there, and C(rule) the short name of the broken rule.
  returned: failure, with the error C(InvalidDeclaration)
  type: list
  elements: dict
  sample:
    - rule: bus
      path: disks[2].disk.bus
      value: ide
      accepted: one of virtio, scsi, sata, usb is expected
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create empty disk
      subject: /var/lib/libvirt/granary-vmstore/volumes/875fb9a8-5708-4ef1-aab9-da7d27f730eb/scratch.qcow2
      before:
      after:
        size: 10737418240
        thick: false
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import DOMAIN_VOLUMES_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.volumes import DomainVolumesService


def main() -> None:
    run_module(DOMAIN_VOLUMES_SPEC, DomainVolumesService)


if __name__ == "__main__":
    main()
