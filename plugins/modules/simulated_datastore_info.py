#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: simulated_datastore_info
short_description: Read the status and the ledger of a simulated datastore
description: Returns the mounts of a simulated datastore, the policies in force, and the requests and results of
  clients.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._simulated_datastore
options:
  op:
    description: Only these operations or classes of operations.
    type: list
    elements: str
  path:
    description: Only paths below the mount point that match this glob. Without a slash it is one for the last
      component.
    type: str
  client:
    description: Only requests of this client.
    type: str
  rule:
    description: Only requests that this rule has hit.
    type: str
  since:
    description:
      - Only entries from this mark on, or from the entry with this number.
      - RV(status.ledger.next) is the number of the next entry.
    type: str
  limit:
    description: How many entries of the ledger are returned at most, the last ones.
    type: int
    default: 1000
seealso:
  - module: granary.vmstore.simulated_datastore
"""

EXAMPLES = r"""
- name: Read what the rule has hit
  granary.vmstore.simulated_datastore_info:
    name: images
    rule: third
  register: hits
"""

RETURN = r"""
mounted:
  description: Whether it is mounted.
  returned: success
  type: bool
status:
  description: Clients, settings, capacity and rules. Empty when it isn't mounted.
  returned: success
  type: dict
  contains:
    ledger:
      description: How many entries the ledger has.
      type: dict
      contains:
        next:
          description: The number of the next entry.
          type: int
ledger:
  description: The entries that match, oldest first.
  returned: success
  type: list
  elements: dict
  sample:
    - seq: 7
      client: host1
      op: write
      path: /disk.qcow2
      offset: 8192
      size: 4096
      error: 5
      rules: [third]
summary:
  description: Requests, bytes and errors of the matching entries by client and operation.
  returned: success
  type: list
  elements: dict
  sample:
    - client: host1
      op: write
      requests: 3
      bytes: 8192
      errors: 1
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.simulated_datastore import (
    SIMULATED_DATASTORE_INFO_SPEC,
    read_simulated_datastore,
)


def main() -> None:
    run_info_module(SIMULATED_DATASTORE_INFO_SPEC, read_simulated_datastore)


if __name__ == "__main__":
    main()
