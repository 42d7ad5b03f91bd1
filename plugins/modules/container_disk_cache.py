#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container_disk_cache
short_description: Keep container disks on a hypervisor
description:
  - Pulls the disk of a container image to a cache on this host, removes it, and prunes disks that nobody uses.
    Container disks are those of KubeVirt.
  - The image is in a registry that has OCI's distribution protocol, in an OCI layout, or in an archive.
  - The disk is the only file in the directory C(/disk) of the image, or the file at O(path). Its format is raw or
    qcow2. Layers are read as streams. Only the disk is ever written, and holes stay holes.
  - All digests are verified. A disk gets its name when it is complete and on the disk.
  - Images with the same disk share one file. Two runs that pull the same layers at once download them once.
  - Nobody may write to a disk. Root owns it with mode C(0444), and the directory must be one that only root can change.
    A virtual machine that writes gets an overlay with the disk as its backing file.
  - Layers are refused that have absolute names, names with C(..), several files in C(/disk), or a link or a device
    instead of the disk. A qcow2 disk with a backing file or an external data file is refused, and so is a damaged disk.
  - An image has at most 128 layers with a million entries. The file of the disk has at most 1 TiB, and everything
    beside the disk at most 64 GiB.
  - Runs on the hypervisor. The commands C(qemu-img) and, for layers with zstd, C(zstd) are needed.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
attributes:
  check_mode:
    support: full
    details:
      - The registry is asked for the digest of the image, and nothing is downloaded. Whether the image has a usable
        disk isn't known.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(image_pull_policy=Always), a run reports a change if the registry has another image under the name.
options:
  image:
    description:
      - The image, as C([registry[:port]/]name[:tag][@digest]). The registry is C(docker.io) by default, and the tag is
        C(latest). With a digest, the tag has no effect.
      - C(oci:/path[:tag]) is an image in the directory of an OCI layout.
      - C(oci-archive:/path[:tag]) is an image in a tar archive of an OCI layout. C(docker-archive:/path[:name]) is one
        in an archive of C(docker save). The archive isn't compressed.
      - At least one of O(image), O(max_age) and O(max_size) is required.
    type: str
  state:
    description:
      - V(present) pulls the disk.
      - V(absent) removes the name of the image. It removes the disk if no other name stands for it. A disk that a
        domain of this host uses is not removed, and the module fails.
    type: str
    choices: [present, absent]
    default: present
  image_pull_policy:
    description:
      - V(Always) asks the registry for the digest of the image, and pulls the image if it is another one than in the
        cache.
      - V(IfNotPresent) takes the image in the cache without asking.
      - V(Never) fails if the cache lacks the image.
      - The default is V(Always) for the tag C(latest) and for files, and V(IfNotPresent) for all others. An image with
        a digest is never asked for again.
    type: str
    choices: [Always, IfNotPresent, Never]
    aliases: [imagePullPolicy]
  pull_secret:
    description: The user of the registry, by name and password or in a file of Docker's clients.
    type: dict
    suboptions:
      username:
        description: Name of the user, together with the password.
        type: str
      password:
        description: Password of the user.
        type: str
      dockerconfigjson:
        description:
          - The content of a C(config.json) with C(auths), as in Kubernetes' secrets of the type
            C(kubernetes.io/dockerconfigjson). It is JSON, or JSON in base64.
          - The entry with the longest name counts that matches the registry and the beginning of the name of the image.
        type: jsonarg
  path:
    description: The absolute path of the disk in the image. By default, it is the only file in C(/disk).
    type: str
  architecture:
    description:
      - The architecture of an image for several ones, such as V(amd64) or V(arm64). The default is that of this host.
      - With O(state=absent), the default is all architectures.
      - An image for one platform is taken as it is.
    type: str
  ca_path:
    description: A file of this host with the certificates of CAs in PEM. One of them must have signed the certificate
      of the registry. By default, these are the certificates that this host trusts.
    type: path
  insecure:
    description:
      - Whether to use http instead of https. Everybody on the way can then read the password and the token. The digests
        protect the content only where O(image) has a digest.
      - A registry on a loopback address, such as C(localhost:5000), always uses http, unless O(ca_path) is given.
    type: bool
    default: false
  max_age:
    description:
      - Removes the disks that nobody used for a longer time. It is a number of seconds, or one with V(m), V(h), V(d) or
        V(w), such as V(30d).
      - Disks stay that a domain of this host uses, running or not, also as the backing file of an overlay. So do disks
        that a program has open, and disks that a task used within the last hour.
    type: str
  max_size:
    description:
      - Removes the disks that nobody used for the longest time, until all disks take at most so much storage. It is a
        number of MiB, or one with V(G) or V(T), such as V(50G). The same disks stay as with O(max_age).
    type: str
  directory:
    description: The directory of the cache. Only root can change it and the directories around it.
    type: path
    default: /var/lib/libvirt/granary-vmstore/container-disks
notes:
  - By default, libvirt gives the backing files of a domain to the user of QEMU. The next run verifies the content of
    such a disk, gives the disk back to root and reports this as a change. A definition avoids it by C(<seclabel
    model='dac' relabel='no'/>) in the C(source) of the C(backingStore).
seealso:
  - module: granary.vmstore.container_disk_cache_info
"""

EXAMPLES = r"""
- name: Pull a disk
  granary.vmstore.container_disk_cache:
    image: quay.io/containerdisks/fedora:latest
  register: fedora

- name: Make an overlay for a virtual machine
  ansible.builtin.command:
    argv:
      - qemu-img
      - create
      - -f
      - qcow2
      - -b
      - "{{ fedora.container_disk.file }}"
      - -F
      - "{{ fedora.container_disk.format }}"
      - /var/lib/libvirt/images/web1.qcow2
    creates: /var/lib/libvirt/images/web1.qcow2

- name: Pull a disk from a registry of our own, and keep the cache small
  granary.vmstore.container_disk_cache:
    image: registry.example.com/disks/builder:v3
    image_pull_policy: IfNotPresent
    path: /images/builder.qcow2
    pull_secret:
      username: hypervisor
      password: "{{ registry_password }}"
    ca_path: /etc/ssl/example-ca.pem
    max_age: 30d
    max_size: 100G

- name: Pull a disk from a file
  granary.vmstore.container_disk_cache:
    image: oci-archive:/srv/images/builder.tar:v3

- name: Remove a disk
  granary.vmstore.container_disk_cache:
    image: quay.io/containerdisks/fedora:latest
    state: absent
"""

RETURN = r"""
container_disk:
  description: The disk once the module is done. In check mode, the values of a disk that has to be pulled are null,
    except for the digest.
  returned: O(state=present) and O(image)
  type: dict
  sample:
    image: quay.io/containerdisks/fedora:latest
    file: /srv/container-disks/disks/ef9e6e7ed2651bf83c7d81d839bb62ba52fd77c80e6224667e30d3e1747d85e5
    format: qcow2
    virtual_size: 5368709120
    size: 500170752
    digest: sha256:43087d26d2a87eac549181ccb3e200b87d48ab577bcbb42bcce0f065ff78fbb1
    checksum: sha256:ef9e6e7ed2651bf83c7d81d839bb62ba52fd77c80e6224667e30d3e1747d85e5
    architecture: amd64
    path: /disk/fedora.qcow2
    names: [quay.io/containerdisks/fedora:latest]
  contains:
    image:
      description: The full name of the image.
      type: str
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
      description: All names of images that stand for the disk.
      type: list
      elements: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: pull container disk
      subject: quay.io/containerdisks/fedora:latest
      before:
      after:
        digest: sha256:43087d26d2a87eac549181ccb3e200b87d48ab577bcbb42bcce0f065ff78fbb1
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.options import (
    CONTAINER_DISK_CACHE_SPEC,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.service import (
    ContainerDiskCacheService,
)


def main() -> None:
    run_module(CONTAINER_DISK_CACHE_SPEC, ContainerDiskCacheService)


if __name__ == "__main__":
    main()
