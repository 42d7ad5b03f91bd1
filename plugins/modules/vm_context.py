#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_context
short_description: Make the context image of a virtual machine
description:
  - Writes a small ISO 9660 image that configures a virtual machine at boot, for OpenNebula's context packages or for
    cloud-init (NoCloud). The virtual machine needs the image as a CD-ROM drive.
  - The image is rebuilt only when its content, its owner or its permissions differ. Equal content gives equal bytes,
    whatever the time, the user and the order of the options.
  - The image gets its name once it is complete. A run that fails leaves the old image in place.
  - A running domain reads the old image until its medium is changed or the domain is shut down and started. The module
    warns if a program has the old image open.
  - A file that this module didn't write is never replaced or removed. The error names the file.
  - Runs on the hypervisor, or on the host with the files of the virtual machine.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows variables and digests of files. Values of variables with names such as C(PASSWORD), C(TOKEN) or C(API_KEY)
        are withheld.
  idempotent:
    support: full
requirements:
  - xorriso
options:
  path:
    description:
      - Path of the image, in a directory that exists. Directories in which every user can write are refused.
      - A symbolic link is followed. A link of another user leads only to directories of the same user.
    type: path
    required: true
  format:
    description:
      - The programs in the guest that read the image.
      - V(context) is for OpenNebula's context packages. The image has the volume id C(CONTEXT) and the file
        C(context.sh).
      - V(nocloud) is for cloud-init. The image has the volume id C(cidata) and the files C(meta-data) and
        C(user-data).
    type: str
    choices: [context, nocloud]
    default: context
  variables:
    description:
      - Variables for C(context.sh), with O(format=context) only. Names are capital letters, digits and C(_). Values are
        text, or whole numbers.
      - The guest gets each value byte for byte, with quotes, C($), backslashes and line ends.
      - Put V(YES) and V(NO) in quotes. YAML reads them as truth values, which are refused.
      - Variables of the shell, such as C(PATH), are refused. A variable has at most 128 KiB, because the context
        packages export all variables.
    type: dict
    default: {}
  files:
    description:
      - Further files in the image. They have at most 64 MiB in all.
      - With O(format=nocloud), these can be C(network-config) and C(vendor-data).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path of a regular file on the host. Exclusive with O(files[].content).
        type: path
      content:
        description: The content of the file. The module's results don't contain it.
        type: str
      name:
        description:
          - The name in the image, at most 64 letters, digits, C(_), C(.), C(+), C(@) and C(-).
          - Required with O(files[].content). The default is the last component of O(files[].path).
        type: str
  ssh_keys:
    description:
      - Public keys of ssh for the login, each as in a file C(id_*.pub).
      - They become C(SSH_PUBLIC_KEY), or C(ssh_authorized_keys) of cloud-init.
    type: list
    elements: str
    default: []
  mounts:
    description:
      - Virtiofs mounts of the guest, with each tag and each mount point once.
      - They become C(DISK0_MOUNT_TAG), C(DISK0_MOUNT_POINT) and so on, or C(mounts) of cloud-init.
      - The domain needs a virtio-fs device for each tag, see M(granary.vmstore.virtiofs_export).
    type: list
    elements: dict
    default: []
    suboptions:
      mount_tag:
        description: The tag of the virtio-fs device.
        type: str
        required: true
      mount_point:
        description: The mount point in the guest, without blanks. Directories that the guest needs are refused.
        type: str
        required: true
      read_only:
        description:
          - Whether the guest mounts read-only, with O(format=nocloud) only. The context packages mount read-write.
          - This protects from mistakes only. A read-only export also stops root of the guest.
        type: bool
        default: false
  hostname:
    description: The host name of the guest. It becomes C(SET_HOSTNAME), or C(local-hostname) of cloud-init.
    type: str
  instance_id:
    description:
      - The id of the guest for cloud-init, such as the UUID of the domain. Required with O(format=nocloud).
      - With a new id, cloud-init configures the guest as if it were new, for example with new host keys of ssh.
      - With the same id, the next boot applies changed O(mounts), but no changed O(ssh_keys).
    type: str
  owner:
    description:
      - Name or id of the user that owns the image.
      - By default, an existing image keeps its owner. A new image gets the owner of the directory. Without root's
        rights, this is the user who runs the module.
    type: str
  group:
    description: Name or id of the group of the image. The default is like that of O(owner).
    type: str
  mode:
    description:
      - Permissions of the image, as a quoted octal number.
      - By default, an existing image keeps its permissions, and a new image gets V(0640).
    type: str
  state:
    description:
      - V(present) makes sure that the image exists with this content.
      - V(absent) removes the image.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Libvirt usually gives the image of a running domain to the user of QEMU. Don't give O(owner) for such an image,
    because the module would change the owner back.
  - Only root sees the programs of other users that have the old image open.
  - Ansible prints values of O(variables) with C(-vvv), except for those that are withheld. Set C(no_log) for a task
    with secrets under other names.
seealso:
  - module: granary.vmstore.virtiofs_export
  - module: granary.vmstore.virtiofs_mount
"""

EXAMPLES = r"""
- name: Make a context image for OpenNebula's context packages
  granary.vmstore.vm_context:
    path: /var/lib/libvirt/images/web1-context.iso
    variables:
      NETWORK: "YES"
      START_SCRIPT: |
        #!/bin/sh
        echo "It's $(hostname)" > /etc/motd
    ssh_keys:
      - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILZ2NGPEVNh0uPjyeWYYJCSEK0DUyFJBn6JgSLcAQN2m admin@example.org
    mounts:
      - mount_tag: one-0
        mount_point: /mnt/one-fs-0
    files:
      - name: motd
        content: Welcome.
  register: result

- name: Show its checksum
  ansible.builtin.debug:
    var: result.context.checksum

- name: Make an image for cloud-init
  granary.vmstore.vm_context:
    path: /var/lib/libvirt/images/web2-seed.iso
    format: nocloud
    instance_id: 1b0cbb0e-5a50-4d7e-9a5e-6a1f7d0c3d52
    hostname: web2
    mounts:
      - mount_tag: datasets
        mount_point: /srv/datasets
        read_only: true

- name: Remove an image
  granary.vmstore.vm_context:
    path: /var/lib/libvirt/images/web1-context.iso
    state: absent
"""

RETURN = r"""
context:
  description: The image once the module is done. Only RV(context.path) with O(state=absent).
  returned: success
  type: dict
  sample:
    path: /var/lib/libvirt/images/web1-context.iso
    format: context
    files: [context.sh, motd]
    size: 385024
    checksum: sha256:5e2b1d7a0c9f4f7f6f0f3c7c4a1b8c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b
    owner: root
    group: root
    mode: "0640"
  contains:
    path:
      description: Path of the image.
      type: str
    format:
      description: The format.
      type: str
    files:
      description: Names of the files in the image.
      type: list
      elements: str
    size:
      description: Length of the image in bytes. Null in check mode where it would be written.
      type: int
    checksum:
      description: C(sha256:) and the digest of the image. Null in check mode where it would be written.
      type: str
    owner:
      description: Name of the user that owns the image, or the id of a user without a name.
      type: str
    group:
      description: Name of the group of the image, or the id of a group without a name.
      type: str
    mode:
      description: Permissions of the image.
      type: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create context image
      subject: /var/lib/libvirt/images/web1-context.iso
      before:
      after:
        format: context
        variables:
          DISK0_MOUNT_POINT: /mnt/one-fs-0
          DISK0_MOUNT_TAG: one-0
          NETWORK: "YES"
        files:
          motd: 8 bytes, sha256:68a2a2c7bf4f1c1e2f4e4b7d9a2d3c5e6f7081928374655647382910a0b1c2d3
        owner: root
        group: root
        mode: "0640"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.context.context import ContextService
from ansible_collections.granary.vmstore.plugins.module_utils._service.context.desired import VM_CONTEXT_SPEC


def main() -> None:
    run_module(VM_CONTEXT_SPEC, ContextService)


if __name__ == "__main__":
    main()
