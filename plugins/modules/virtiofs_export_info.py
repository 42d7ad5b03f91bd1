#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virtiofs_export_info
short_description: Read which directories a hypervisor shares with its virtual machines
description: Reads the virtiofs devices of libvirt domains, in the definition and in the running domain, and returns the
  differences between the two.
author:
  - The granary.vmstore developers (@granary)
requirements:
  - python3-libvirt
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.info_module
  - granary.vmstore._attributes.actiongroup_vmstore
options:
  domain:
    description: Name or UUID of a libvirt domain. Without it, all domains of this host are read.
    type: str
  service_user:
    description:
      - The user whose subordinate ids the exports map to.
      - The default is the user that the role P(granary.vmstore.hypervisor#role) wrote to
        C(/etc/granary-vmstore/virtiofsd.json), else V(oneadmin).
    type: str
  uri:
    description: URI of libvirt on this host.
    type: str
    default: qemu:///system
seealso:
  - module: granary.vmstore.virtiofs_export
"""

EXAMPLES = r"""
- name: Read the exports of all domains
  granary.vmstore.virtiofs_export_info:
  register: result

- name: Show the exports that hang or hide what their guest writes
  ansible.builtin.debug:
    msg: >-
      {{ result.domains | map(attribute='devices') | flatten
      | selectattr('daemon', 'in', ['dead', 'stopped', 'other_directory']) }}

- name: Show the domains that have to be restarted to be as they are defined
  ansible.builtin.debug:
    msg: >-
      {{ result.domains | selectattr('devices', 'ne', []) | rejectattr('devices.0.differences', 'eq', [])
      | map(attribute='name') }}
"""

RETURN = r"""
domains:
  description: The domains by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the domain.
      type: str
      sample: web1
    uuid:
      description: UUID of the domain.
      type: str
      sample: 90b11b1b-ae15-4ac6-9c52-399f36ea6e11
    running:
      description: Whether it runs. A paused domain does.
      type: bool
    devices:
      description: Its virtiofs devices. The values are those of the definition if the device is in there, else those of
        the running domain.
      type: list
      elements: dict
      contains:
        mount_tag:
          description: The tag that the guest mounts.
          type: str
          sample: one-5
        source:
          description: The directory on this host.
          type: str
          sample: /mnt/data
        read_only:
          description: Whether the guest can't write.
          type: bool
        uid_map:
          description: The map of user ids, a list of dictionaries with C(start), C(target) and C(count). Empty without
            a map.
          type: list
          elements: dict
          sample:
            - start: 0
              target: 100000
              count: 65536
        gid_map:
          description: The map of group ids, like RV(domains[].devices[].uid_map).
          type: list
          elements: dict
          sample:
            - start: 0
              target: 100000
              count: 65536
        owners:
          description: What files of the guest's ids 0 and 1000 belong to on this host. V(none) is an id that the guest
            can't use.
          type: list
          elements: dict
          sample:
            - guest: 0
              uid: 100000
              gid: 100000
            - guest: 1000
              uid: 101000
              gid: 101000
        cache:
          description: How virtiofsd lets the guest cache, V(auto) if the device doesn't say.
          type: str
          sample: none
        queue:
          description: Length of the device's queue, V(none) if the device doesn't say.
          type: int
        xattr:
          description: Whether the guest can use extended attributes, V(none) if the device doesn't say.
          type: bool
        sandbox:
          description: How virtiofsd shuts itself in, V(none) if the device doesn't say.
          type: str
        thread_pool:
          description: Threads of virtiofsd, V(none) if the device doesn't say.
          type: int
        binary:
          description: Path of the virtiofsd, V(none) if the device doesn't say.
          type: str
          sample: /usr/local/libexec/granary-virtiofsd
        persistent:
          description: Whether the definition has the device.
          type: bool
        running:
          description: Whether the running domain has the device.
          type: bool
        daemon:
          description:
            - The state of the virtiofsd behind the device of the running domain. V(none) if the running domain lacks
              the device or nothing can be found out.
            - V(running) serves the directory that is at RV(domains[].devices[].source) now.
            - V(dead) has died, and the guest hangs. The domain has to be stopped and started.
            - V(stopped) was stopped by a signal, and the guest hangs until it gets SIGCONT.
            - V(other_directory) serves what was at the source before a file system was mounted or unmounted there, or
              before the directory was replaced.
          type: str
          sample: running
        other_owners:
          description:
            - Who else on this host has ids that the device maps guest ids to.
            - These are subordinate ranges of users other than O(service_user), accounts and groups.
            - Ranges of other users that come from an NSS source aren't known.
          type: list
          elements: str
          sample: ["alice:150000:10 in /etc/subuid"]
        differences:
          description:
            - What is different in the definition and in the running domain, names of these values.
            - V(running) or V(persistent) if that side of a running domain lacks the device. Empty for a domain that is
              shut off.
          type: list
          elements: str
          sample: [cache]
        risks:
          description:
            - How users of this host and the guest could do harm through the directory, and what to do about it, one
              sentence each.
            - Also why the next start of the domain will be refused, where that is so. V(none) without root's rights.
          type: list
          elements: str
domain_subids:
  description:
    - The ranges of ids that domains have for themselves, also those of domains that are gone. See
      O(granary.vmstore.virtiofs_export#module:subid).
    - V(none) without root's rights.
  returned: success
  type: list
  elements: dict
  sample:
    - domain: web1
      uuid: 90b11b1b-ae15-4ac6-9c52-399f36ea6e11
      start: 1879048192
      count: 65536
  contains:
    domain:
      description: Name that the domain had when it got the range.
      type: str
    uuid:
      description: UUID of the domain.
      type: str
    start:
      description: First subordinate user id and group id.
      type: int
    count:
      description: How many of each.
      type: int
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.info import (
    VIRTIOFS_EXPORT_INFO_SPEC,
    virtiofs_export_info,
)


def main() -> None:
    run_info_module(VIRTIOFS_EXPORT_INFO_SPEC, virtiofs_export_info)


if __name__ == "__main__":
    main()
