#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: subid_info
short_description: Read subordinate user and group ids
description:
  - Reads the entries of C(/etc/subuid) and C(/etc/subgid).
  - For one user, and if C(/etc/nsswitch.conf) takes subordinate ids from another source than files, the module runs
    C(getsubids).
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
options:
  user:
    description: Login name, or decimal uid, of a user. Without it, all entries of the files are returned.
    type: str
seealso:
  - module: granary.vmstore.subid
"""

EXAMPLES = r"""
- name: Read the ranges of the service user
  granary.vmstore.subid_info:
    user: oneadmin
  register: result

- name: Show the first subordinate uid
  ansible.builtin.debug:
    var: result.subuid[0].start
"""

RETURN = r"""
source:
  description: Where this host takes subordinate ids from, V(files) or the name of an NSS source.
  returned: success
  type: str
  sample: files
subuid:
  description: Ranges of user ids.
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
  description: Ranges of group ids, like RV(subuid).
  returned: success
  type: list
  elements: dict
  sample:
    - user: oneadmin
      start: 100000
      count: 65536
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.ids.subid import SUBID_INFO_SPEC, read_subids


def main() -> None:
    run_info_module(SUBID_INFO_SPEC, lambda options: read_subids(**options))


if __name__ == "__main__":
    main()
