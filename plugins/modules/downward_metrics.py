#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: downward_metrics
short_description: Install the program that gives virtual machines the metrics of their host
description:
  - Installs the storage engine of this collection on a hypervisor, and a program that starts the engine's service for
    downward metrics.
  - The role P(granary.vmstore.downward_metrics#role) runs this module, and the program as a service.
  - The previous engine stays until the next one is installed, for a running program.
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
  program:
    description:
      - Path of the program. A file in this place that isn't an older version of the program is not replaced.
      - Only root may be able to change its directory, or a directory around it.
    type: path
    default: /usr/local/libexec/granary-downward-metrics
  library:
    description: Directory of the engine, which nothing else uses. Only root may be able to change it, or a directory
      around it.
    type: path
    default: /usr/local/lib/granary-downward-metrics
  python:
    description: The Python, 3.9 or newer, that runs the program. It needs the library of the package
      C(python3-libvirt).
    type: path
    default: /usr/bin/python3
  state:
    description:
      - V(present) installs the program and the engine.
      - V(absent) removes them. The disks of virtual machines stay.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Install the program
  granary.vmstore.downward_metrics:

- name: Remove the program
  granary.vmstore.downward_metrics:
    state: absent
"""

RETURN = r"""
engine:
  description: The directory of the engine that the program uses once the module is done.
  returned: when O(state=present)
  type: str
  sample: /usr/local/lib/granary-downward-metrics/6c2f
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: install program
      subject: /usr/local/libexec/granary-downward-metrics
      before:
      after:
        mark: "# Installed by granary.vmstore.downward_metrics."
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face import downward_metrics
from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._remote.engine import engine_sources, path_in_engine
from ansible_collections.granary.vmstore.plugins.module_utils._service.metrics.program import (
    DOWNWARD_METRICS_SPEC,
    DownwardMetricsService,
)


def main() -> None:
    entry = downward_metrics.__name__
    run_module(
        DOWNWARD_METRICS_SPEC,
        lambda options: DownwardMetricsService(options, engine_sources(entry), path_in_engine(entry)),
    )


if __name__ == "__main__":
    main()
