#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: subid
short_description: Manage a user's subordinate user and group ids
description:
  - Writes the entry of a user into C(/etc/subuid) and C(/etc/subgid), so that programs run as that user can map a range
    of ids, for example the ids of a virtual machine's users in a virtiofs share.
  - An entry the user already has is respected. It is reported and not modified, whatever range was asked for, unless
    O(replace=true).
  - The files are written under the locks of the shadow suite and replaced atomically. Other lines and comments stay as
    they are.
  - Where C(/etc/nsswitch.conf) takes subordinate ids from another source than files, ranges are read with C(getsubids)
    and can't be written.
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
  user:
    description: Login name of the user that gets the range, or a decimal uid.
    type: str
    required: true
  start:
    description:
      - First subordinate id.
      - The default is the start of the first free range from 100000 on, as C(useradd) searches. A range is free if no
        user has it in these files, and no account or group has an id in it. C(SUB_UID_MIN) and related settings in
        C(/etc/login.defs) limit the search.
    type: int
  count:
    description: Number of ids, from O(start) on.
    type: int
    default: 65536
  type:
    description: Whether user ids, group ids or both are managed.
    type: str
    choices: [uid, gid, both]
    default: both
  replace:
    description:
      - Whether entries the user already has are replaced by exactly the range asked for.
      - Files that were written under the old range keep their owner ids.
    type: bool
    default: false
  state:
    description:
      - V(present) makes sure that the user has a range.
      - V(absent) removes all entries of the user.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: granary.vmstore.subid_info
  - module: granary.vmstore.virtiofs_export
"""

EXAMPLES = r"""
- name: Give the service user the range that virtiofs maps guests into
  granary.vmstore.subid:
    user: oneadmin

- name: Give it exactly this range, even if it has another one
  granary.vmstore.subid:
    user: oneadmin
    start: 500000
    count: 65536
    replace: true
"""

RETURN = r"""
subuid:
  description: The ranges of user ids the user owns once the module is done. Not returned with O(type=gid).
  returned: success
  type: list
  elements: dict
  sample:
    - user: oneadmin
      start: 100000
      count: 65536
  contains:
    user:
      description: The owner as the entry names it, a login name or a decimal uid.
      type: str
    start:
      description: First subordinate id.
      type: int
    count:
      description: How many ids.
      type: int
subgid:
  description: The ranges of group ids, like RV(subuid). Not returned with O(type=uid).
  returned: success
  type: list
  elements: dict
  sample:
    - user: oneadmin
      start: 100000
      count: 65536
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: add subordinate uid range
      subject: /etc/subuid
      before:
      after: "oneadmin:100000:65536\n"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.ids.subid import (
    SUBID_SPEC,
    SubidService,
    SubidSpec,
)


def main() -> None:
    run_module(SUBID_SPEC, lambda options: SubidService(SubidSpec(**options)))


if __name__ == "__main__":
    main()
