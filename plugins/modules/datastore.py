#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: datastore
short_description: Manage datastores
description:
  - Creates, changes and removes datastores in the catalog. The first datastore creates the catalog, with the datastores
    0 (C(system)), 1 (C(default)) and 2 (C(files)) that every front-end has.
  - A datastore with O(ds_driver=virtiofs) and O(tm_driver=virtiofs) holds images that are directories of hosts. It
    stores metadata only, so its capacity is 0. Snapshots, backups, attaching as a disk, resizing, saving as and cloning
    are not supported there.
  - A datastore with O(ds_driver=fs) holds images that are files. Its directory is created with the first image, for the
    owner of the directory around it.
  - Runs on the front-end. The module neither creates nor removes directories.
  - A name has 1 to 128 printable characters and no blank at either end. It is not only digits, because digits are an
    id.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  id:
    description:
      - Id of the datastore. Needed only to rename the datastore. O(name) is the new name then.
      - A new datastore gets the next free id, starting at 100. No id is used twice.
    type: int
  name:
    description: Name of the datastore. At least one of O(id) and O(name) is required.
    type: str
  type:
    description:
      - Content of the datastore. It can't change. The default of a new datastore is V(image).
      - There is no driver for V(backup) yet.
    type: str
    choices: [image, system, backup, file]
  ds_driver:
    description:
      - The datastore driver, V(virtiofs) or V(fs). It can't change. Required for a new datastore, except with
        O(type=system), which has no driver.
      - V(fs) stores images as files in a directory. V(virtiofs) registers directories of hosts.
    type: str
  tm_driver:
    description:
      - The transfer driver, V(virtiofs) with O(ds_driver=virtiofs), otherwise V(local), V(shared) or V(ssh).
      - It can't change. Required for a new datastore.
    type: str
  base_path:
    description:
      - Directory of the datastore's data. It can't change. The default of a new datastore is a directory in
        O(datastore_location) that has the id as its name.
      - No datastore can be in the directory of another datastore.
    type: str
  datastore_location:
    description: Directory in which new datastores get their O(base_path).
    type: str
    default: /var/lib/one/datastores
  clusters:
    description: Ids of the clusters that the datastore belongs to. The default of a new datastore is V([0]).
    type: list
    elements: int
  safe_dirs:
    description:
      - Directories that can be sources of images although they are in restricted directories. The deeper entry of a
        safe and a restricted directory wins.
      - A block device is allowed by a directory here, such as C(/dev/GROUP), or by its own path.
      - A directory that contains a restricted directory is never allowed. Without this option, C(/var/tmp) is safe.
    type: list
    elements: str
  restricted_dirs:
    description:
      - Directories that can't be sources of images, besides the directories that are always restricted. These are
        C(/bin), C(/boot), C(/dev), C(/etc), C(/lib), C(/lib32), C(/lib64), C(/libx32), C(/proc), C(/root), C(/run),
        C(/sbin), C(/sys), C(/usr), C(/var) and the directories of all datastores. The directory with the catalog is
        never the source of an image.
      - Add V(/) to allow O(safe_dirs) only.
    type: list
    elements: str
  bridge_list:
    description:
      - Names or addresses of bridges. With V(virtiofs), the bridges are asked in turn for a directory that is missing
        on the front-end. With V(fs), each action runs on one reachable bridge over one connection. The bridge needs
        C(python3), 3.9 or newer, and C(qemu-img). Local source paths of images are paths of the front-end. The capacity
        of a datastore of type V(system) is read on one bridge.
      - Bridges are reached with C(ssh), without a password, as the user that runs the module and with that user's
        C(~/.ssh/config).
    type: list
    elements: str
  attributes:
    description:
      - Further attributes, by their names in lower case. They replace the current attributes of the datastore.
      - V(fs) has the attributes C(driver), V(raw) or V(qcow2), the format to which disks are converted, unless
        C(convert) is V(no); C(sparse), C(no_decompress) and C(verify), V(yes) or V(no); C(limit_transfer_bw), bytes a
        second, perhaps with K, M or G; C(qcow2_options), such as V(cluster_size=2M); C(supported_fs), the file systems
        for empty images, and C(fs_opts_) with the name of one, arguments of its C(mkfs).
      - Values that C(qemu-img) or C(mkfs) of this host don't accept are refused, unless O(bridge_list) has hosts that
        create the images.
      - V(fs), and datastores with O(type=system), have the attributes C(nfs_auto_enable), V(yes) or V(no),
        C(nfs_auto_host), C(nfs_auto_path) and C(nfs_auto_opts), too. With V(yes), the driver mounts that directory of
        the NFS server on O(base_path) when an action needs it. A user other than root needs the right to run
        C(mount) with C(sudo).
      - V(virtiofs) has no attributes.
    type: dict
  shared:
    description:
      - Whether O(base_path) is on a shared file system that must be mounted, as by M(granary.vmstore.shared_mount).
        While it isn't mounted, or doesn't respond, every action on the datastore is an error that changes nothing.
      - Not for V(virtiofs). The default of a new datastore is V(false).
    type: bool
  marker:
    description:
      - UUID of the store that must be mounted, as RV(granary.vmstore.shared_mount#module:mount.marker) has it. Another
        store on the path is an error. It is checked before the datastore is used. Requires O(shared=true).
      - An empty text removes the marker.
    type: str
  state:
    description:
      - V(present) makes sure that the datastore exists as described. An option that is not given stays as it is.
      - V(absent) removes the datastore from the catalog. A datastore with images can't be removed, and neither can 0, 1
        and 2.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: granary.vmstore.datastore_info
  - module: granary.vmstore.image
"""

EXAMPLES = r"""
- name: Have a datastore of shared directories
  granary.vmstore.datastore:
    name: fs_datastore
    ds_driver: virtiofs
    tm_driver: virtiofs

- name: Have a datastore of disks, all of them qcow2
  granary.vmstore.datastore:
    name: disks
    ds_driver: fs
    tm_driver: ssh
    attributes:
      driver: qcow2
      limit_transfer_bw: 200M

- name: Ask two hosts for directories that the front-end doesn't have
  granary.vmstore.datastore:
    name: fs_datastore
    bridge_list: [host01, host02]

- name: Have a datastore on the NFS server, which is used only while that is mounted
  granary.vmstore.datastore:
    name: nas
    ds_driver: fs
    tm_driver: shared
    shared: true

- name: Rename it
  granary.vmstore.datastore:
    id: 100
    name: shared_directories
"""

RETURN = r"""
datastore:
  description: The datastore once the module is done.
  returned: O(state=present)
  type: dict
  sample:
    id: 100
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
      description: Hosts that are asked for what isn't on the front-end.
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
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create datastore
      subject: fs_datastore
      before:
      after:
        id: 100
        name: fs_datastore
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)


def main() -> None:
    run_module(DATASTORE_SPEC, DatastoreService)


if __name__ == "__main__":
    main()
