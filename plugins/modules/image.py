#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Manage images
description:
  - Registers directories of hosts as images of type V(filesystem), which virtual machines mount through virtiofs.
  - The directory itself is never changed, and stays where it is when the image is removed.
  - It must be on the front-end or, where it isn't, on a host of the datastore's bridge list, which is asked over one ssh connection. Symbolic links
    in its path are resolved, and the result has to be allowed by the safe and restricted directories of the datastore.
  - Runs on the front-end.
  - A name has 1 to 128 printable characters, no blank at an end, and is not only digits, as those are an id.
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
  id:
    description:
      - Id of the image. Needed only to rename it, O(name) is its new name then.
      - A new image gets its id by itself, from 0 on. No id is given twice.
    type: int
  name:
    description: Name of the image. At least one of O(id) and O(name) is needed.
    type: str
  datastore:
    description: Name or id of its datastore. It can't change. A new image needs one.
    type: str
  type:
    description: Type of the image. It can't change.
    type: str
    choices: [filesystem]
  path:
    description:
      - The directory. It can't change. A new image needs one.
      - Two images can have the same directory, for example one persistent and one read-only.
    type: str
  persistent:
    description:
      - Whether one domain has the image for itself. The default of a new image is V(false).
      - An image that is not persistent can be used by several domains if it is O(read_only).
    type: bool
  read_only:
    description: Whether every domain can only read the image. The default of a new image is V(false).
    type: bool
  mount_point:
    description: Where guests mount the image. The default of a new image is C(/mnt/one-fs-) and its id.
    type: str
  mount_tag:
    description:
      - The tag under which guests see the image, at most 36 letters, digits and C(_.+@-), not starting with a sign.
      - No two images have one tag. The default of a new image is C(one-) and its id.
    type: str
  uid_map:
    description: Which user ids of guests become which of the host. Without it, the default of the host is used.
    type: list
    elements: dict
    suboptions:
      start:
        description: First id in the guest.
        type: int
        default: 0
      target:
        description: The id on the host that O(uid_map[].start) becomes.
        type: int
        required: true
      count:
        description: How many ids are mapped.
        type: int
        default: 65536
  gid_map:
    description: Which group ids of guests become which of the host, like O(uid_map).
    type: list
    elements: dict
    suboptions:
      start:
        description: First id in the guest.
        type: int
        default: 0
      target:
        description: The id on the host that O(gid_map[].start) becomes.
        type: int
        required: true
      count:
        description: How many ids are mapped.
        type: int
        default: 65536
  size:
    description:
      - Size in MiB of a new empty image, or a new size of an existing one.
      - No driver of this version supports either. An image of type V(filesystem) has the size of what its directory holds.
    type: int
  clone_of:
    description: Name of an image that this one is to be a copy of. No driver of this version supports cloning.
    type: str
  timeout:
    description: Seconds that measuring the directory may take, from 1 to 86400.
    type: int
    default: 300
  state:
    description:
      - V(present) makes sure that the image is registered as described. An option that isn't given stays as it is.
      - V(absent) removes it from the catalog.
      - An image that a domain uses can neither be changed nor removed.
    type: str
    choices: [present, absent]
    default: present
  catalog:
    description:
      - Path of the catalog, an SQLite database on the front-end that knows all datastores, images and attachments.
      - It must be on a local disk. File locks of network file systems are not dependable.
    type: path
    default: /var/lib/one/vmstore/catalog.sqlite
notes:
  - The size is measured in each run that gives O(path), and returned. That it differs from the last time is no change, because files come and go.
    The catalog keeps the size of the time when the image was registered or last changed.
seealso:
  - module: granary.vmstore.image_info
  - module: granary.vmstore.image_attachment
  - module: granary.vmstore.virtiofs_export
"""

EXAMPLES = r"""
- name: Register a directory for one virtual machine
  granary.vmstore.image:
    name: fs_data
    datastore: fs_datastore
    path: /mnt/data
    persistent: true

- name: Register it for many readers, under a tag and a mount point of our own
  granary.vmstore.image:
    name: fs_data_readers
    datastore: fs_datastore
    path: /mnt/data
    read_only: true
    mount_tag: one-tag
    mount_point: /srv/data
"""

RETURN = r"""
image:
  description: The image once the module is done.
  returned: O(state=present)
  type: dict
  sample:
    id: 0
    name: fs_data
    datastore: fs_datastore
    datastore_id: 100
    type: filesystem
    path: /mnt/data
    size_mb: 81
    persistent: true
    read_only: false
    mount_tag: one-0
    mount_point: /mnt/one-fs-0
    uid_map:
    gid_map:
  contains:
    id:
      description: Its id. Ids are given from 0 on and never twice.
      type: int
    name:
      description: Its name.
      type: str
    datastore:
      description: Name of its datastore.
      type: str
    datastore_id:
      description: Id of its datastore.
      type: int
    type:
      description: Its type, V(filesystem).
      type: str
    path:
      description: The directory, with symbolic links resolved.
      type: str
    size_mb:
      description: MiB that the directory holds on disk, rounded up, as C(du) counts. Of this run if O(path) is given, else as registered.
      type: int
    persistent:
      description: Whether one domain has it for itself.
      type: bool
    read_only:
      description: Whether domains can only read it.
      type: bool
    mount_tag:
      description: The tag that guests see.
      type: str
    mount_point:
      description: Where guests mount it.
      type: str
    uid_map:
      description: Maps of user ids, or null for the default of the host.
      type: list
      elements: dict
    gid_map:
      description: Maps of group ids, like RV(image.uid_map).
      type: list
      elements: dict
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create image
      subject: fs_data
      before:
      after: {id: 0, name: fs_data}
"""

from ansible_collections.granary.vmstore.plugins.module_utils._service.image import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.module import run_module


def main() -> None:
    run_module(IMAGE_SPEC, ImageService)


if __name__ == "__main__":
    main()
