#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: directory
short_description: Create a directory where other users own the directories around it
description:
  - Creates a directory and sets its owner, group and mode, like M(ansible.builtin.file) with
    O(ansible.builtin.file#module:state=directory).
  - Unlike that module, it can be run as root below a directory of another user, who may replace any name there at any
    moment. A symbolic link that another user could have put there is only followed to directories of that user. A new
    directory is created with the rights of the owner of the directory around it. An existing directory is only changed
    if no other user than its owner could have put it there.
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
  path:
    description:
      - Absolute path of the directory.
      - Missing directories above it are created with mode C(0755). They belong to the owner of the directory around
        them.
    type: path
    required: true
  owner:
    description: Name or id of the user who owns the directory. Without it, an existing directory keeps its owner.
    type: str
  group:
    description: Name or id of the group of the directory. Without it, an existing directory keeps its group.
    type: str
  mode:
    description: Permissions as a quoted octal number.
    type: str
    default: "0755"
seealso:
  - module: ansible.builtin.file
"""

EXAMPLES = r"""
- name: Make the directory of all datastores, in the home directory of the service user
  granary.vmstore.directory:
    path: /var/lib/one/datastores
    owner: oneadmin
    group: oneadmin
    mode: "0755"
"""

RETURN = r"""
directory:
  description: The directory once the module is done. Owner and group are missing in check mode if the directory is
    missing and they weren't given.
  returned: success
  type: dict
  sample:
    path: /var/lib/one/datastores
    owner: oneadmin
    group: oneadmin
    mode: "0755"
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create directory
      subject: /var/lib/one/datastores
      before:
      after:
        owner: oneadmin
        group: oneadmin
        mode: "0755"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.directory import DIRECTORY_SPEC, DirectoryService


def main() -> None:
    run_module(DIRECTORY_SPEC, DirectoryService)


if __name__ == "__main__":
    main()
