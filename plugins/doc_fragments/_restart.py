# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Private to this collection. The options of modules that can restart a running domain.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  restart:
    description:
      - The action if a running domain needs a restart (RV(restart_required)), for whatever reason.
      - V(when_needed) asks the guest to shut down, waits, and starts the domain. The module fails if the guest doesn't
        shut down within O(restart_timeout), or if the domain is paused. Earlier changes stay. A guest that hangs on a
        dead virtiofsd often can't shut down.
      - V(when_needed_force) does the same, and turns off the power of the domain if the guest doesn't shut down in
        time. The guest can lose unwritten data.
      - A domain that doesn't start again gets its old definition back and is started with that.
      - A transient domain isn't restarted, because it would be gone.
    type: str
    choices: [never, when_needed, when_needed_force]
    default: never
  restart_timeout:
    description: Upper bound of the seconds in which the guest must shut down for O(restart).
    type: int
    default: 120
"""
