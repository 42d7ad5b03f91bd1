# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection. Every module extends `granary.vmstore._attributes` and
# `granary.vmstore._attributes.actiongroup_vmstore`; an _info module extends `granary.vmstore._attributes.info_module`
# too, and any other says by itself how far it supports each attribute.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
notes:
  - A failed run returns the class of the error in C(error), such as C(NoSpace), beside the sentence in C(msg). If the
    value of an option is refused, C(option) is the name of the option. The guide to errors of the collection lists the
    classes.
attributes:
  check_mode:
    description:
      - Returns what would be done and changes nothing.
      - If something is missing that an earlier task may create or install, such as a package, a datastore or a device,
        the module warns of that and reports a change.
  diff_mode:
    description: Shows each change with the values before and after it.
  idempotent:
    description: A second run with the same options, while nothing else changed, reports no change.
  platform:
    description: The operating systems of the hosts that the module can run on.
    platforms: Linux
    support: full
"""

    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module never changes anything.
      - In check mode, the module is skipped if what it reads is missing, because an earlier task may create it.
  diff_mode:
    support: N/A
    details:
      - This module never changes anything.
  idempotent:
    support: full
    details:
      - This module never changes anything.
"""

    ACTIONGROUP_VMSTORE = r"""
options: {}
attributes:
  action_group:
    description: Takes options that a play sets in C(module_defaults) for C(group/granary.vmstore.vmstore).
    support: full
    membership:
      - granary.vmstore.vmstore
"""
