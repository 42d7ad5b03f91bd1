#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: simulated_datastore
short_description: Mount a simulated datastore on a test host and set its policies
description:
  - Mounts storage that fails on command, to test a playbook with storage that is full, slow, broken or gone.
  - Needs root, and on the host the program C(simulated-datastore) of the test harness of this collection. The role
    P(granary.vmstore.simulated_datastore#role) installs the program.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._simulated_datastore
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  backing:
    description:
      - The directory that holds its files. A missing one is created.
      - Needed while the datastore isn't mounted.
    type: path
  mounts:
    description:
      - One mount for each client of the datastore. Missing directories are created.
      - Mounts of other clients are unmounted. Those that a mount helper made, for O(exports), stay.
      - A mount with another path, profile or squash, or with other flags, is replaced. Files that are open there are
        lost to who has them open.
      - Without this option mounts stay as they are.
    type: list
    elements: dict
    suboptions:
      client:
        description: Name of the client, by which rules and the ledger tell it from others.
        type: str
        required: true
      path:
        description: The mount point.
        type: path
        required: true
      profile:
        description: How the datastore reaches the client.
        type: str
        choices: [local, nfs3, nfs4.2]
        default: local
      squash:
        description: Whose requests are those of the anonymous user. The default is that of the profile.
        type: str
        choices: [none, root, all]
      read_only:
        description: Whether the mount is read-only.
        type: bool
        default: false
      strict:
        description: Whether reads and writes bypass the page cache, so that the ledger is exact.
        type: bool
        default: false
  exports:
    description:
      - Sources by which mount(8) finds this datastore, with the file system type C(sim), or C(nfs) and C(nfs4) where
        the helper for those is installed.
      - So a role that mounts storage is tested as it is.
      - Other sources are exported no more. What is mounted already stays. Without this option exports stay as they are.
      - A datastore that is exported stays when nothing is mounted.
    type: list
    elements: dict
    suboptions:
      source:
        description: What is mounted, for example V(nfs1:/images).
        type: str
        required: true
      profile:
        description: How the datastore reaches the client. The default is that of the version of NFS that is asked for.
        type: str
        choices: [local, nfs3, nfs4.2]
      squash:
        description: Whose requests are those of the anonymous user. The default is that of the profile.
        type: str
        choices: [none, root, all]
  settings:
    description:
      - What C(simulated-datastore set) takes, for example C(size), C(inodes), C(latency), C(write) and C(state).
      - Sizes are bytes, or a text like V(64K).
      - What isn't given stays as it is.
    type: dict
  rules:
    description:
      - The fault rules that are in force, with the keys that C(simulated-datastore rule add) takes. Each needs an
        C(id).
      - Other rules are deleted. Without this option rules stay as they are.
    type: list
    elements: dict
  state:
    description:
      - V(mounted) makes sure that it is mounted for these clients.
      - V(unmounted) unmounts it, whatever hangs.
    type: str
    choices: [mounted, unmounted]
    default: mounted
seealso:
  - module: granary.vmstore.simulated_datastore_info
"""

EXAMPLES = r"""
- name: Mount a small datastore for two clients
  granary.vmstore.simulated_datastore:
    name: images
    backing: /srv/backing
    mounts:
      - client: host1
        path: /mnt/host1
        profile: nfs4.2
      - client: host2
        path: /mnt/host2
        profile: nfs4.2
    settings:
      size: 1073741824

- name: Let the third write of an image fail
  granary.vmstore.simulated_datastore:
    name: images
    rules:
      - id: third
        ops: [write]
        path: "*.qcow2"
        nth: 3
        error: EIO

- name: Let the server hang
  granary.vmstore.simulated_datastore:
    name: images
    settings:
      state: hung

- name: Offer a datastore to a role that mounts nfs1:/images itself
  granary.vmstore.simulated_datastore:
    name: images
    backing: /srv/backing
    exports:
      - source: nfs1:/images
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: mount for host1
      subject: /mnt/host1
      before:
      after:
        client: host1
        path: /mnt/host1
        profile: local
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.simulated_datastore import (
    SIMULATED_DATASTORE_SPEC,
    SimulatedDatastoreService,
    SimulatedDatastoreSpec,
)


def main() -> None:
    run_module(SIMULATED_DATASTORE_SPEC, lambda options: SimulatedDatastoreService(SimulatedDatastoreSpec(**options)))


if __name__ == "__main__":
    main()
