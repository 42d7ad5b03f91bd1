#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_attachment
short_description: Manage which domain uses which image
description:
  - Records in the catalog that a domain of a host uses an image, and checks the rules that hold across all hosts. A
    persistent image, and an image that is not read-only, is used by one domain only. In one domain, no two images have
    the same tag or mount point.
  - Runs on the front-end, where the catalog is. Pass its result to M(granary.vmstore.virtiofs_export) on the
    hypervisor. A hypervisor that is the front-end, too, doesn't need this module, because
    M(granary.vmstore.virtiofs_export) does the same for an image.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
  - granary.vmstore._id_maps
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  image:
    description: Name or id of the image.
    type: str
    required: true
  host:
    description: Name or address of the host, letters, digits and C(_.:-) only.
    type: str
    required: true
  domain:
    description: Name of the libvirt domain, 1 to 128 printable characters without C(/).
    type: str
    required: true
  mount_tag:
    description: The tag in this domain. The default is that of the image.
    type: str
  mount_point:
    description: The mount point in this domain. The default is that of the image.
    type: str
  read_only:
    description: Whether this domain can only read. The default is that of the image. No domain can write to a read-only
      image.
    type: bool
  uid_map:
    description: Map of user ids of the guest to user ids of the host. The default is that of the image.
  gid_map:
    description: Map of group ids of the guest to group ids of the host. The default is that of the image.
  state:
    description:
      - V(present) records the attachment, or its new values.
      - V(absent) deletes the record. Remove the export from the domain before.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: granary.vmstore.image
  - module: granary.vmstore.virtiofs_export
"""

EXAMPLES = r"""
- name: Claim an image for a domain of another host
  granary.vmstore.image_attachment:
    image: fs_data
    host: host01
    domain: web
  delegate_to: frontend
  register: recorded

- name: Put it into the domain
  granary.vmstore.virtiofs_export:
    domain: web
    attachment: "{{ recorded.attachment }}"
"""

RETURN = r"""
attachment:
  description: The attachment with the values in effect, the ones given here over the image's over the defaults.
  returned: O(state=present)
  type: dict
  sample:
    image_id: 0
    image: fs_data
    source: /mnt/data
    persistent: true
    read_only: false
    mount_tag: one-0
    mount_point: /mnt/one-fs-0
    uid_map:
    gid_map:
    host: host01
    domain: web
  contains:
    image_id:
      description: Id of the image.
      type: int
    image:
      description: Name of the image.
      type: str
    source:
      description: The directory.
      type: str
    persistent:
      description: Whether the domain has the image for itself.
      type: bool
    read_only:
      description: Whether the domain can only read.
      type: bool
    mount_tag:
      description: The tag in this domain.
      type: str
    mount_point:
      description: The mount point in this domain.
      type: str
    uid_map:
      description: Maps of user ids, or null for the default of the host.
      type: list
      elements: dict
    gid_map:
      description: Maps of group ids, or null for the default of the host.
      type: list
      elements: dict
    host:
      description: The host of the domain.
      type: str
    domain:
      description: The domain.
      type: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: add attachment
      subject: "image 'fs_data' in domain 'web' on host 'host01'"
      before:
      after:
        image_id: 0
        host: host01
        domain: web
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.attachment import (
    IMAGE_ATTACHMENT_SPEC,
    ImageAttachmentService,
)


def main() -> None:
    run_module(IMAGE_ATTACHMENT_SPEC, ImageAttachmentService)


if __name__ == "__main__":
    main()
