#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_export
short_description: Write an image into a file
description:
  - Writes the data of an image, or of one of its snapshots, to one file on the front-end. The file needs no other file.
    Holes stay holes.
  - The file gets its name once it is complete. A run that fails leaves the old file in place.
  - Runs on the front-end, which must hold the data. Images in a datastore with a bridge list are refused.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
attributes:
  check_mode:
    support: full
    details:
      - Where O(dest) exists, it is compared with the image, also in check mode.
  diff_mode:
    support: full
    details:
      - Says which file would be written, and doesn't show data.
  idempotent:
    support: full
options:
  image:
    description: Name or id of the image.
    type: str
    required: true
  dest:
    description:
      - Path of the file, in a directory that exists. The path can't be in a directory of a datastore.
      - A symbolic link, and everything else that isn't a regular file, is refused. Links among the directories of the
        path are followed.
    type: path
    required: true
  format:
    description: Format of the file. The default is the format of the image.
    type: str
    choices: [raw, qcow2]
  snapshot:
    description: Id of a snapshot of the image, to write instead of the image's current data.
    type: int
  force:
    description: Replaces a file with another content or format. Without it, such a file is an error.
    type: bool
    default: false
notes:
  - A file that is written belongs to the user who runs the module, who alone may read and write it (mode 0600). Use
    M(ansible.builtin.file) to change that; it isn't looked at again.
  - A file that is there already counts as the image if guests would read the same from it.
  - Stop the domains that use the image, or export a snapshot. What is written to the image meanwhile may be in the file
    in part.
requirements:
  - qemu-img on the front-end
seealso:
  - module: granary.vmstore.image
  - module: granary.vmstore.image_snapshot
"""

EXAMPLES = r"""
- name: Export an image
  granary.vmstore.image_export:
    image: database
    dest: /srv/exports/database.qcow2
    format: qcow2

- name: Export what it was at a snapshot
  granary.vmstore.image_export:
    image: database
    snapshot: 2
    dest: /srv/exports/database-2.img
    format: raw
  register: result

- name: Show its checksum
  ansible.builtin.debug:
    var: result.checksum
"""

RETURN = r"""
dest:
  description: Path of the file.
  returned: success
  type: str
  sample: /srv/exports/database.qcow2
format:
  description: Its format.
  returned: success
  type: str
  sample: qcow2
size:
  description: Its length in bytes, holes included. Null in check mode where it would be written.
  returned: success
  type: int
  sample: 197120
checksum:
  description: C(sha256:) and the digest of the file. Null in check mode where it would be written.
  returned: success
  type: str
  sample: sha256:d2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: export image
      subject: database
      before:
      after:
        dest: /srv/exports/database.qcow2
        format: qcow2
        image: database
        snapshot:
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.export import (
    IMAGE_EXPORT_SPEC,
    ImageExportService,
)


def main() -> None:
    run_module(IMAGE_EXPORT_SPEC, ImageExportService)


if __name__ == "__main__":
    main()
