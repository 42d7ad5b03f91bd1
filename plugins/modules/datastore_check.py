#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: datastore_check
short_description: Compare the catalog with what is on disk
description:
  - Compares the images of the catalog with the data in datastores that store data, and returns the differences.
  - An image that is incomplete by its own tables is a difference, too. With O(checksums), the data is compared with the
    recorded checksum. An image that was created with a checksum has a recorded checksum from the beginning. The module
    M(granary.vmstore.image) creates a wrong image again with its option C(remake).
  - Without O(repair), the module changes nothing.
  - With O(repair), the catalog gets the real sizes of images, and stale temporaries of killed runs are removed. No
    image and no data of an image is lost.
  - Data without an image is removed only if O(remove) has its path. An image without data is removed from the catalog
    only if O(remove) names the image. Data is on disk before its image is in the catalog, so data without an image may
    belong to an image that is being created.
  - Runs on the front-end.
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
  name:
    description: Name or id of the datastore to check. Without it, all datastores that store data are checked.
    type: str
  checksums:
    description:
      - Also read the data of all images that are not persistent, and compare the data with their recorded checksums.
      - With O(repair), images without a checksum get the SHA-256 of their stored data. A recorded checksum that differs
        stays.
      - The data of persistent images may change, so it is not read.
    type: bool
    default: false
  repair:
    description: Repair what can be repaired without a loss, and remove the items of O(remove).
    type: bool
    default: false
  remove:
    description:
      - Data and images to remove, with O(repair=true).
      - The path of data without an image, as in RV(datastores[].orphans[].path). It is refused while a program has the
        data open, or a domain has it as a disk, on the hosts of the option O(granary.vmstore.image#module:force).
      - The name, id or path of an image without data. It is removed from the catalog, unless a domain uses the image.
      - An item that is removed already is accepted. An image with data is refused.
    type: list
    elements: str
    default: []
  timeout:
    description: Upper bound of the seconds for the file system of one datastore, and for each piece of data with
      O(checksums), from 1 to 86400.
    type: int
    default: 30
seealso:
  - module: granary.vmstore.datastore_info
  - module: granary.vmstore.image
"""

EXAMPLES = r"""
- name: Check all datastores, and read all data that has a checksum
  granary.vmstore.datastore_check:
    checksums: true
  register: result
  failed_when: not result.consistent

- name: Repair what can be repaired without a loss
  granary.vmstore.datastore_check:
    repair: true

- name: Remove data that belongs to no image, and an image whose data is lost
  granary.vmstore.datastore_check:
    name: default
    repair: true
    remove:
      - /var/lib/one/datastores/1/05d147c524ae30d046db542ec2859136
      - old_image
"""

RETURN = r"""
consistent:
  description: Whether catalog and disk agree about all datastores that were checked, once the module is done.
  returned: success
  type: bool
  sample: false
datastores:
  description: The datastores that were checked, by id.
  returned: success
  type: list
  elements: dict
  sample:
    - id: 1
      name: default
      consistent: false
      error:
      orphans:
        - path: /var/lib/one/datastores/1/05d147c524ae30d046db542ec2859136
          allocated_bytes: 4096
          repaired: false
      missing: []
      drift: []
      leftovers: []
      unknown: []
  contains:
    id:
      description: Its id.
      type: int
    name:
      description: Its name.
      type: str
    consistent:
      description: Whether nothing was found, or all that was found is repaired.
      type: bool
    error:
      description:
        - Why it could not be checked, or null. Nothing is found then.
        - The one that is asked for by O(name) is never returned with this, the module fails instead.
      type: str
    orphans:
      description: Data without an image, as files of images with their snapshots, and as snapshots or checksum files of
        images whose own file isn't there.
      type: list
      elements: dict
      contains:
        path:
          description: Its path.
          type: str
        allocated_bytes:
          description: Bytes that it takes on disk.
          type: int
        repaired:
          description: Whether this run removes it.
          type: bool
    missing:
      description: Images without data.
      type: list
      elements: dict
      contains:
        id:
          description: Id of the image.
          type: int
        name:
          description: Its name.
          type: str
        path:
          description: Where its data should be.
          type: str
        repaired:
          description: Whether this run removes it from the catalog.
          type: bool
    drift:
      description: Images whose data isn't what the catalog says.
      type: list
      elements: dict
      contains:
        id:
          description: Id of the image.
          type: int
        name:
          description: Its name.
          type: str
        path:
          description: Its data.
          type: str
        attribute:
          description: What differs, V(size_mb), V(format) or V(checksum), or V(data) where the data by its own tables
            isn't whole.
          type: str
        recorded:
          description: What the catalog says.
          type: raw
        found:
          description: What the data says, or null where RV(datastores[].drift[].error) says why that can't be told.
          type: raw
        error:
          description: Why it can't be told, or null.
          type: str
        repaired:
          description: Whether this run corrects the catalog, which it does for V(size_mb) only.
          type: bool
    leftovers:
      description: What killed runs have left.
      type: list
      elements: dict
      contains:
        path:
          description: Its path.
          type: str
        allocated_bytes:
          description: Bytes that it takes on disk.
          type: int
        repaired:
          description: Whether this run removes it.
          type: bool
    unknown:
      description: Names of what else is there, in which C(\x) and two digits stand for a byte that isn't UTF-8. It is
        left alone, and nothing is wrong with it.
      type: list
      elements: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: correct image
      subject: debian
      before: {size_mb: 2048}
      after: {size_mb: 4096}
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.check import (
    DATASTORE_CHECK_SPEC,
    DatastoreCheckService,
)


def main() -> None:
    run_module(DATASTORE_CHECK_SPEC, DatastoreCheckService)


if __name__ == "__main__":
    main()
