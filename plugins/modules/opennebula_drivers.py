#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: opennebula_drivers
short_description: Install the storage engine as storage drivers of an OpenNebula front-end
description:
  - Installs the storage engine of this collection, and the scripts by which a front-end calls the engine. In the
    directory of remotes, these are C(datastore/<driver>/<action>) for images, and C(tm/<driver>/<action>) for the disks
    of virtual machines.
  - A script of the same name is replaced. The replaced script is kept outside the remotes, because a front-end copies
    what is there to all hosts. It is not executable, and its name has the date. The README of the role has the way
    back.
  - Installs functions for driver scripts that a site writes itself, C(granary/scripts_common.sh) in the remotes. The
    front-end's own C(scripts_common.sh) stays unchanged.
  - Scripts that an older version of this module kept in the remotes are moved there.
  - Scripts and missing directories belong to the owner of the directory around them. No symbolic link in the directory
    of remotes leads root to a directory that isn't that of the link's owner.
  - The hosts of virtual machines need only the script C(monitor_ds) in their directory of remotes, for monitoring. A
    front-end copies it with C(onehost sync). Each other action of a transfer driver opens at
    most one ssh connection to a host, and sends the engine along. A host needs C(python3), 3.9 or newer, C(qemu-img),
    and the programs that create file systems.
  - The programs that the drivers run are installed by the role P(granary.vmstore.opennebula_drivers#role).
  - The engine before stays until the engine after the new one is installed, for the actions that are under way.
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
  remotes:
    description: The front-end's directory of remotes. It has to exist, with the directories C(datastore) and C(tm) in
      it.
    type: path
    default: /var/lib/one/remotes
  library:
    description: Where the engine is installed, once for all drivers. Nobody but root may be able to change it, or a
      directory around it.
    type: path
    default: /usr/local/lib/granary-vmstore
  kept:
    description:
      - Where scripts of the front-end are kept that the drivers replace, below the path that each had.
      - Nobody but root may be able to change it, or a directory around it.
    type: path
    default: /var/lib/granary-vmstore/kept
  python:
    description: The Python, 3.9 or newer, that the drivers run with, whatever the front-end's environment says.
    type: path
    default: /usr/bin/python3
  names:
    description: The datastore drivers to install.
    type: list
    elements: str
    choices: [fs, virtiofs]
    default: [fs, virtiofs]
  tm_names:
    description:
      - The transfer drivers to install. V(qcow2) is another name of V(shared).
      - The scripts of V(shared) and V(qcow2) also have the names C(<action>.ssh) and C(<action>.local). A front-end
        calls these for a system datastore with that driver.
      - All of them but V(virtiofs) have C(monitor). V(ssh) and V(local) also have C(monitor_ds), which runs on the
        hosts and needs only C(/usr/bin/python3).
      - The front-end keeps its own scripts for all other actions, such as C(prebackup). These scripts work with the
        same files.
      - Use V([]) to keep all of the front-end's own transfer drivers.
    type: list
    elements: str
    choices: [ssh, local, shared, qcow2, virtiofs]
    default: [ssh, local, shared, qcow2, virtiofs]
seealso:
  - module: granary.vmstore.datastore
"""

EXAMPLES = r"""
- name: Install the drivers
  granary.vmstore.opennebula_drivers:

- name: Install one of them on a front-end with another directory of remotes
  granary.vmstore.opennebula_drivers:
    remotes: /srv/one/remotes
    names: [virtiofs]
    tm_names: []
"""

RETURN = r"""
engine:
  description: The directory of the engine that the drivers use once the module is done.
  returned: success
  type: str
  sample: /usr/local/lib/granary-vmstore/6c2f
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: install driver
      subject: /var/lib/one/remotes/datastore/fs
      before: {replaced: [rm]}
      after: {installed: [rm]}
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script import entry
from ansible_collections.granary.vmstore.plugins.module_utils._remote.engine import engine_sources
from ansible_collections.granary.vmstore.plugins.module_utils._service.drivers.opennebula import (
    OPENNEBULA_DRIVERS_SPEC,
    OpennebulaDriversService,
)


def main() -> None:
    run_module(
        OPENNEBULA_DRIVERS_SPEC, lambda options: OpennebulaDriversService(options, engine_sources(entry.__name__))
    )


if __name__ == "__main__":
    main()
