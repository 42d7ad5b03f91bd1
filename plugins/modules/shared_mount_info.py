#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: shared_mount_info
short_description: Read the shared mounts of a host
description:
  - Reads the mounts of shared file systems, live and in C(/etc/fstab), with their condition, their capacity, their
    marker and their users.
  - Nothing hangs. All mounts are accessed at once, so that any number of dead servers takes O(timeout) seconds once.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
options:
  path:
    description: Read only the mounts on this mount point, whatever their type is. Symbolic links aren't followed. By
      default, all mounts of shared types are read.
    type: str
  user:
    description: The service user whose rights are in RV(mounts[].access).
    type: str
    default: oneadmin
  timeout:
    description: Seconds in which all mounts together must return their capacity, and again their content, from 1 to
      3600.
    type: int
    default: 10
seealso:
  - module: granary.vmstore.shared_mount
"""

EXAMPLES = r"""
- name: Read the shared mounts
  granary.vmstore.shared_mount_info:
    timeout: 5
  register: result

- name: Stop if a server is away
  ansible.builtin.assert:
    that: result.mounts | rejectattr('state', 'eq', 'ok') | length == 0
    fail_msg: "{{ result.mounts | rejectattr('state', 'eq', 'ok') }}"
"""

RETURN = r"""
mounts:
  description: The mounts, first those that are live, then those that are only in C(/etc/fstab).
  returned: success
  type: list
  elements: dict
  sample:
    - path: /var/lib/one/datastores
      source: nfs1.example.com:/srv/datastores
      fstype: nfs4
      live: [rw, relatime, vers=4.2, proto=tcp]
      fstab: [vers=4.2, hard, nconnect=4, _netdev, nofail]
      state: ok
      reason:
      total_bytes: 1000203091968
      free_bytes: 625125986304
      owner: oneadmin
      group: oneadmin
      mode: "0750"
      marker: 0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e
      access:
        read: true
        write: true
        search: true
      version: "4.2"
      protocol: tcp
      processes: ["qemu-system-x86 (712)"]
      domains: [web1]
  contains:
    path:
      description: The mount point.
      type: str
    source:
      description: The source.
      type: str
    fstype:
      description: The type, for a live mount as the kernel names it.
      type: str
    live:
      description: The options of the live mount, as in M(granary.vmstore.shared_mount). V(null) when it isn't mounted.
      type: list
      elements: str
    fstab:
      description: The options in C(/etc/fstab), V(null) when it isn't there.
      type: list
      elements: str
    state:
      description:
        - V(ok) is mounted and responds.
        - V(stale) is mounted, and its server is away or has lost the store. RV(mounts[].reason) tells more.
        - V(hidden) is under a later mount, and V(stacked) is on top of another mount on the same path.
        - V(missing) is in C(/etc/fstab) and not mounted.
      type: str
    reason:
      description: The reason why something isn't known or the state isn't V(ok), V(null) otherwise.
      type: str
    total_bytes:
      description: The capacity. V(null), like all of the following, if it isn't known.
      type: int
    free_bytes:
      description: What users other than root can still write.
      type: int
    owner:
      description: Owner of the root directory of the store.
      type: str
    group:
      description: Group of that directory.
      type: str
    mode:
      description: Permissions of that directory.
      type: str
    marker:
      description: UUID of the store.
      type: str
    access:
      description: What O(user) can do in the root directory, by the server's answer. V(null) without such a user.
      type: dict
    version:
      description: The version of NFS that the server and this host agreed on.
      type: str
    protocol:
      description: The transport protocol of NFS.
      type: str
    processes:
      description: Processes that have a file or a directory of the mount open.
      type: list
      elements: str
    domains:
      description: libvirt's domains with files on the mount, running or not.
      type: list
      elements: str
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.shared_mount_info import (
    SHARED_MOUNT_INFO_SPEC,
    shared_mount_info,
)


def main() -> None:
    run_info_module(SHARED_MOUNT_INFO_SPEC, shared_mount_info)


if __name__ == "__main__":
    main()
