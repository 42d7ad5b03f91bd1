#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Read images
description:
  - Reads the images of the catalog, each with the domains and the disks of virtual machines that use it.
  - Runs on the front-end.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
options:
  name:
    description: Name or id of an image. Without it, all images are returned.
    type: str
  datastore:
    description: Name or id of a datastore, to return its images only.
    type: str
seealso:
  - module: granary.vmstore.image
"""

EXAMPLES = r"""
- name: Read the images of a datastore
  granary.vmstore.image_info:
    datastore: fs_datastore
  register: result

- name: Show who uses the first one
  ansible.builtin.debug:
    msg: "{{ result.images[0].attachments | map(attribute='domain') }}"
"""

RETURN = r"""
images:
  description: The images, by id.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 0
      name: fs_data
      datastore: fs_datastore
      datastore_id: 100
      type: filesystem
      path: /mnt/data
      format: dir
      size_mb: 81
      persistent: true
      read_only: false
      fs:
      origin:
      origin_checksum:
      checksum:
      mount_tag: one-0
      mount_point: /mnt/one-fs-0
      uid_map:
      gid_map:
      attachments: []
      disks: []
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
      description: Its type.
      type: str
    path:
      description: The file that holds its data or, for type V(filesystem), the directory with symbolic links resolved.
      type: str
    format:
      description: Format of its data, such as V(raw) or V(qcow2); V(dir) for type V(filesystem).
      type: str
    size_mb:
      description: Its virtual size in MiB, rounded up. For type V(filesystem), what the directory held on disk when the
        image was registered or last changed.
      type: int
    persistent:
      description: Whether one domain has it for itself.
      type: bool
    read_only:
      description: Whether domains can only read it.
      type: bool
    fs:
      description: File system that was made in it, or null.
      type: str
    origin:
      description: The path or URL that it is a copy of, or C(image:) and the name of the image that it is a clone of,
        or null.
      type: str
    origin_checksum:
      description: Checksum that was asked for when it was copied, or null.
      type: str
    checksum:
      description: Checksum of its data as stored, where it was recorded, or null.
      type: str
    mount_tag:
      description: The tag that guests see, or null.
      type: str
    mount_point:
      description: Where guests mount it, or null.
      type: str
    uid_map:
      description: Maps of user ids, or null for the default of the host.
      type: list
      elements: dict
    gid_map:
      description: Maps of group ids, like RV(images[].uid_map).
      type: list
      elements: dict
    attachments:
      description: The domains that use it, as RV(granary.vmstore.image_attachment#module:attachment) describes them.
      type: list
      elements: dict
    disks:
      description: The disks of virtual machines that are the image, or were cloned from it. Each has C(vm), C(host),
        C(disk) and C(clone), which is null for the disk that is a persistent image.
      type: list
      elements: dict
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import IMAGE_INFO_SPEC, image_info


def main() -> None:
    run_info_module(IMAGE_INFO_SPEC, image_info)


if __name__ == "__main__":
    main()
