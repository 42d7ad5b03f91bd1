# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: vmi_volumes
short_description: Convert a manifest of KubeVirt to disks, filesystems and volumes of a libvirt domain
version_added: 0.1.0
author:
  - The granary.vmstore developers (@granary)
description:
  - Returns the disks, filesystems and volumes in a manifest of a VirtualMachine or a VirtualMachineInstance, as options
    of the module M(granary.vmstore.domain_volumes).
  - Config maps and secrets in further documents become the options
    O(granary.vmstore.domain_volumes#module:config_maps) and O(granary.vmstore.domain_volumes#module:secrets). A claim
    in a further document marks its volume as thick if the claim has an annotation for preallocated data.
  - The filter refuses disks and volumes that the module can't read, with all problems at once. The module checks the
    rest, because that needs facts about the host.
positional: _input
options:
  _input:
    description:
      - The manifest, as a dictionary.
      - Or a list of dictionaries, with the manifest of one virtual machine and those of the objects that it uses.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Convert a file with a virtual machine, its config maps and its secrets
  ansible.builtin.set_fact:
    converted: "{{ lookup('ansible.builtin.file', 'vm.yaml') | from_yaml_all | granary.vmstore.vmi_volumes }}"

- name: Print the parts that a plain domain has no counterpart for
  ansible.builtin.debug:
    var: converted.warnings

- name: Print the options of the disks
  ansible.builtin.debug:
    var: converted.options.disks
"""

RETURN = r"""
_value:
  description: The options and the warnings.
  type: dict
  contains:
    options:
      description:
        - Options of the module M(granary.vmstore.domain_volumes). The name of the virtual machine is the option
          O(granary.vmstore.domain_volumes#module:domain).
        - Keys inside of disks, filesystems and volumes keep their spelling, which the module accepts.
      type: dict
    warnings:
      description: Sentences about the parts of the manifest that have no counterpart here.
      type: list
      elements: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest


def vmi_volumes(manifest: object) -> dict[str, Any]:
    """Return the options and the warnings for a manifest."""
    documents = [manifest] if isinstance(manifest, Mapping) else manifest
    if isinstance(documents, str) or not isinstance(documents, Iterable):
        raise AnsibleFilterError("vmi_volumes expects a manifest as a dictionary, or a list of dictionaries.")
    # A file of YAML can end with an empty document.
    given = [one for one in documents if one is not None]
    if not all(isinstance(one, Mapping) for one in given):
        raise AnsibleFilterError("vmi_volumes expects dictionaries in a list of documents.")
    try:
        found = read_manifest(given)
    except VmstoreError as error:
        raise AnsibleFilterError(f"vmi_volumes: {error}") from error
    return {"options": found.options, "warnings": found.warnings}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[[object], dict[str, Any]]]:
        """Return the filters by their names."""
        return {"vmi_volumes": vmi_volumes}
