#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nfs_export_info
short_description: Read the exports and the state of an NFS server
description:
  - Reads the exports in C(/etc/exports) and C(/etc/exports.d), in the table of C(exportfs) and in the kernel, the
    clients that are connected now, and the state of the server.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
options: {}
seealso:
  - module: granary.vmstore.nfs_export
"""

EXAMPLES = r"""
- name: Read the exports
  granary.vmstore.nfs_export_info:
  register: result

- name: Show the clients that are connected now
  ansible.builtin.debug:
    msg: "{{ result.exports | map(attribute='clients_live') | flatten | map(attribute='address') | unique }}"
"""

RETURN = r"""
exports:
  description: The exported directories, sorted by their paths.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /srv/vmstore
      clients:
        - client: 192.0.2.0/24
          options: [rw, sync, no_root_squash]
          effective: [sync, wdelay, hide, nocrossmnt, no_subtree_check, secure, secure_locks, acl, no_pnfs,
            anonuid=65534, anongid=65534, sec=sys, rw, no_root_squash, no_all_squash]
          file: /etc/exports.d/srv-vmstore.exports
          line: 1
          table: true
      live:
        - client: 192.0.2.0/24
          options: [rw, sync, no_root_squash]
      clients_live:
        - address: 192.0.2.10
          version: "4.2"
  contains:
    path:
      description: The directory.
      type: str
    clients:
      description: The clients in files, then those in the table only.
      type: list
      elements: dict
      contains:
        client:
          description: The client, as the file or the table has it.
          type: str
        options:
          description: The access, C(sync) or C(async), the squash, and every other option that isn't the default.
            These are the options in the table, or in the file if the client isn't in the table.
          type: list
          elements: str
        effective:
          description: All options, those of defaults included.
          type: list
          elements: str
        file:
          description: The file with the client; null for a client in the table only.
          type: str
        line:
          description: The first line of the export in the file.
          type: int
        table:
          description: Whether the table of C(exportfs) has the client.
          type: bool
    live:
      description: The exports of the directory that the kernel has in use, each with all clients that include the host,
        separated by commas.
      type: list
      elements: dict
    clients_live:
      description: The clients that are connected now and that the export lets in, as in M(granary.vmstore.nfs_export).
      type: list
      elements: dict
server:
  description: The state of the kernel's NFS server.
  returned: success
  type: dict
  sample:
    running: true
    threads: 8
    versions: ["4", "4.1", "4.2"]
  contains:
    running:
      description: Whether the server runs.
      type: bool
    threads:
      description: The number of its threads.
      type: int
    versions:
      description: The enabled versions of the protocol.
      type: list
      elements: str
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.nfs.info import (
    NFS_EXPORT_INFO_SPEC,
    read_nfs_exports,
)


def main() -> None:
    run_info_module(NFS_EXPORT_INFO_SPEC, lambda _options: read_nfs_exports())


if __name__ == "__main__":
    main()
