#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virtiofs_mount_info
short_description: Read the virtiofs mounts and tags of a guest
description: Reads the virtiofs mounts, live and in C(/etc/fstab), and the tags of the guest.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
options: {}
seealso:
  - module: granary.vmstore.virtiofs_mount
"""

EXAMPLES = r"""
- name: Read what is mounted
  granary.vmstore.virtiofs_mount_info:
  register: result

- name: Make sure that the share is mounted
  ansible.builtin.assert:
    that: result.mounts | selectattr('tag', 'eq', 'one-0') | selectattr('live') | length == 1
"""

RETURN = r"""
mounts:
  description: The virtiofs mounts, first those that are mounted, then those that are only in C(/etc/fstab).
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/datasets
      tag: datasets
      live: [ro, noatime]
      fstab: [ro, noatime, nofail]
      connected: true
  contains:
    path:
      description: The mount point.
      type: str
    tag:
      description: The tag.
      type: str
    live:
      description: Read-write or read-only, how access times are kept, and all options that aren't the default. V(null)
        when it isn't mounted.
      type: list
      elements: str
    fstab:
      description: The options in C(/etc/fstab), V(null) when it isn't there.
      type: list
      elements: str
    connected:
      description: Whether it is mounted and the host answers. A mount whose device was taken away doesn't until it is
        mounted again.
      type: bool
tags:
  description: The tags of the guest's virtio-fs devices. V(null) when its kernel doesn't tell, which Linux does from
    6.9 on with the driver loaded.
  returned: success
  type: list
  elements: str
  sample: [datasets, one-0]
supported:
  description: Whether the running kernel can mount virtiofs.
  returned: success
  type: bool
  sample: true
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.virtiofs_mount import (
    VIRTIOFS_MOUNT_INFO_SPEC,
    read_virtiofs_mounts,
)


def main() -> None:
    run_info_module(VIRTIOFS_MOUNT_INFO_SPEC, lambda options: read_virtiofs_mounts())


if __name__ == "__main__":
    main()
