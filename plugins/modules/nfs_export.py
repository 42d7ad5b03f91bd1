#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nfs_export
short_description: Export a directory of an NFS server
description:
  - Exports one directory of this host to NFS clients, now and at every start of the server.
  - The module compares the file below C(/etc/exports.d), the table of C(exportfs), and the table of the kernel with the
    options. The order of options and their defaults don't matter.
  - Lines for other directories, in the same file or in other files, stay unchanged to the byte. Exports that other
    programs made without a file, such as the resource agents of a cluster, stay too.
  - If C(exportfs) can't export the directory as desired, the module restores the file and fails with the reason of
    C(exportfs).
  - The module needs C(exportfs), on Debian and Ubuntu in the package C(nfs-kernel-server). The server needn't run. The
    role C(granary.vmstore.nfs_server) installs and starts it.
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
  idempotent:
    support: full
options:
  path:
    description:
      - The directory, which must exist. Symbolic links are resolved.
      - Directories that belong to the system, such as C(/etc), C(/usr), C(/var/lib) or C(/root), and paths with
        backslashes are refused.
      - The module warns of a directory that another user than root can replace by a symbolic link.
      - If the file system has neither a block device nor an identity of its own, such as FUSE, the option C(fsid) is
        required in O(options).
    type: str
    required: true
  client:
    description:
      - The hosts that may mount the directory.
      - A host name, an IP address, a network such as V(192.0.2.0/24) or V(2001:db8::/64), a wildcard such as
        V(*.example.org), a netgroup such as V(@hosts), or V(*) for all hosts.
    type: str
  options:
    description:
      - The options for O(client), see exports(5). The defaults of C(exportfs) apply, such as C(ro), C(sync),
        C(root_squash) and C(no_subtree_check).
      - An item may hold several options separated by commas.
      - An unknown option, and two options that contradict each other, are refused.
      - The module warns of C(async). For all hosts, it also warns of C(no_root_squash) or C(insecure) together with
        C(rw).
    type: list
    elements: str
    default: []
  clients:
    description: Several clients with their options. Each client is expected once, whatever its notation.
    type: list
    elements: dict
    suboptions:
      client:
        description: As O(client).
        type: str
        required: true
      options:
        description: As O(options).
        type: list
        elements: str
        default: []
  name:
    description:
      - The name of the file below C(/etc/exports.d), without C(.exports).
      - The default is the path with hyphens for slashes. V(srv-vmstore) is the default for C(/srv/vmstore).
      - Exports of several directories can have the same name.
    type: str
  state:
    description:
      - V(present) makes sure that the directory is exported to exactly these clients, and to those in other files. It
        requires O(client) or O(clients).
      - V(absent) removes the export from the file, the table and the kernel. Programs on connected clients get errors,
        so the module warns of the clients by their addresses.
      - A client that another file exports the directory to is refused with V(present). With V(absent), the module warns
        of such files.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: granary.vmstore.nfs_export_info
  - module: granary.vmstore.directory
"""

EXAMPLES = r"""
- name: Export the store to the front-end and the hosts
  granary.vmstore.nfs_export:
    path: /srv/vmstore
    client: 192.0.2.0/24
    options: [rw, sync, no_root_squash]

- name: Export it to two hosts with different options
  granary.vmstore.nfs_export:
    path: /srv/vmstore
    clients:
      - client: 192.0.2.10
        options: [rw, no_root_squash]
      - client: 192.0.2.11
        options: [rw, all_squash, anonuid=9869, anongid=9869]

- name: Export it no longer
  granary.vmstore.nfs_export:
    path: /srv/vmstore
    state: absent
"""

RETURN = r"""
export:
  description: The export once the module is done.
  returned: success
  type: dict
  sample:
    path: /srv/vmstore
    name: srv-vmstore
    clients:
      - client: 192.0.2.0/24
        options: [rw, sync, no_root_squash]
    file: /etc/exports.d/srv-vmstore.exports
    table:
      - client: 192.0.2.0/24
        options: [rw, sync, no_root_squash]
    live: []
    clients_live: []
  contains:
    path:
      description: The directory without symbolic links.
      type: str
    name:
      description: The name of the file, without C(.exports).
      type: str
    clients:
      description: The clients in the file, each with the access, C(sync) or C(async), the squash, and every other
        option that isn't the default. Empty with O(state=absent).
      type: list
      elements: dict
    file:
      description: The file with the export; null with O(state=absent).
      type: str
    table:
      description: The clients in the table of C(exportfs) without those of other files; null without C(exportfs).
      type: list
      elements: dict
    live:
      description:
        - The exports of the directory that the kernel has in use, each with all clients that include the host,
          separated by commas. Null if the server isn't running.
        - The kernel gets an export when a client accesses it, and forgets it after each change.
      type: list
      elements: dict
    clients_live:
      description:
        - The clients that are connected now and that the export lets in.
        - NFSv4 doesn't record the directory that a client mounts, so a client of another directory may be in the list.
          NFSv3 records it, and keeps the record of a client that crashed.
      type: list
      elements: dict
      contains:
        address:
          description: The client's address.
          type: str
        version:
          description: The version of the protocol.
          type: str
          sample: "4.2"
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: add export
      subject: /etc/exports.d/srv-vmstore.exports
      before:
      after: "/srv/vmstore 192.0.2.0/24(rw,sync,no_root_squash,no_subtree_check)\n"
    - name: update export table
      subject: /var/lib/nfs/etab
      before:
      after: "/srv/vmstore 192.0.2.0/24(rw,sync,no_root_squash)\n"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.nfs.desired import NFS_EXPORT_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.nfs.export import build_nfs_export


def main() -> None:
    run_module(NFS_EXPORT_SPEC, build_nfs_export)


if __name__ == "__main__":
    main()
