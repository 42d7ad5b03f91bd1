#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_snapshot
short_description: Delete, flatten or revert to snapshots of images
description:
  - Deletes, flattens or reverts to a snapshot of an image whose datastore driver supports snapshots. Transfer drivers
    create snapshots while a virtual machine has the image.
  - The data to keep is complete after any failure or power loss, and the task can be repeated.
  - If O(state=flattened) was stopped between its last two steps, repeat the task before anything else is done with the
    image, because its other snapshots may be unusable already.
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
    details:
      - V(reverted) reads the data of the image and of the snapshot, also in check mode.
  diff_mode:
    support: full
    details:
      - Says what becomes of the image and its snapshots, and doesn't show data.
  idempotent:
    support: full
options:
  image:
    description: Name or id of the image.
    type: str
    required: true
  snapshot:
    description: Id of the snapshot, from 0 on.
    type: int
    required: true
  state:
    description:
      - V(absent) deletes the snapshot. The data of the image and of its other snapshots stays. A missing snapshot
        counts as deleted.
      - V(reverted) gives the image the data of the snapshot. The image's current data is lost, and all snapshots stay.
        The data is compared before, so nothing changes if it is the same.
      - V(flattened) turns the image into one file with the data of the snapshot and without any snapshots. The image's
        current data and the other snapshots are lost. Nothing changes if there are no snapshots.
    type: str
    choices: [absent, flattened, reverted]
    required: true
  force:
    description:
      - Acts also while a domain or another program uses the image, with or without an attachment in the catalog.
        Flattens also if other snapshots are lost. Without it, both fail. The checked hosts are those of the option
        O(granary.vmstore.image#module:force).
      - A running domain continues to write to the files that it has open, so stop the domain before.
    type: bool
    default: false
notes:
  - An image that becomes another gets the size that the snapshot has, and loses the checksum that the catalog has of
    its data.
  - One run at a time works on the data of an image. Another one waits for half a minute.
requirements:
  - qemu-img on the front-end
seealso:
  - module: granary.vmstore.image
  - module: granary.vmstore.image_export
"""

EXAMPLES = r"""
- name: Take back what happened since the snapshot 2
  granary.vmstore.image_snapshot:
    image: database
    snapshot: 2
    state: reverted

- name: Delete a snapshot
  granary.vmstore.image_snapshot:
    image: database
    snapshot: 0
    state: absent

- name: Make the image what it was at the snapshot 2, and drop all snapshots
  granary.vmstore.image_snapshot:
    image: database
    snapshot: 2
    state: flattened
    force: true
"""

RETURN = r"""
snapshots:
  description: Ids of the image's snapshots that exist afterwards, or in check mode would.
  returned: success
  type: list
  elements: int
  sample: [1, 2]
image:
  description: The image afterwards, or in check mode as it would be, as RV(granary.vmstore.image#module:image)
    describes it.
  returned: success
  type: dict
  sample:
    id: 7
    name: database
    datastore: default
    datastore_id: 1
    type: datablock
    path: /var/lib/one/datastores/1/6573ae15e97409f235cae95705b4d830
    format: qcow2
    size_mb: 4096
    persistent: true
    read_only: false
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: delete snapshot
      subject: database
      before: {snapshots: [0, 1, 2]}
      after: {snapshots: [1, 2]}
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import (
    IMAGE_SNAPSHOT_SPEC,
    ImageSnapshotService,
)


def main() -> None:
    run_module(IMAGE_SNAPSHOT_SPEC, ImageSnapshotService)


if __name__ == "__main__":
    main()
