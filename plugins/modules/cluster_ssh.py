#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_ssh
short_description: Let one user of each host of a site run commands on the other hosts
description:
  - Manages the key pair of a user, C(~/.ssh/id_ed25519), and lines for the hosts of a site in the user's
    C(authorized_keys) and C(known_hosts).
  - The role P(granary.vmstore.cluster_ssh#role) runs this module in steps on all hosts. It carries the public keys of
    each host to the other hosts.
  - The private key is created on the host and never leaves it. An existing key pair without a passphrase is used.
  - The lines of the module end with the comment C(granary.vmstore.cluster_ssh:NAME). Other lines stay unchanged to
    the byte.
  - A key in these lines permits commands only, from the addresses of its host. Terminals and all kinds of forwarding
    are forbidden.
  - Root works in the directory of the user with the rights of the user. Symbolic links in the place of a file are
    refused.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
attributes:
  check_mode:
    support: full
    details:
      - Check mode creates no key pair. The public key in the result is then a text in its place, which other tasks
        accept in check mode.
  diff_mode:
    support: full
    details:
      - Shows public keys, and only the lines of the module.
  idempotent:
    support: full
requirements:
  - ssh-keygen
options:
  user:
    description: The user. No other user may be able to write in the home directory. Otherwise sshd refuses all keys.
    type: str
    required: true
  peers:
    description: Names of the other hosts. RV(addresses) has the addresses from which this host connects to them.
    type: list
    elements: str
  next_key:
    description:
      - Whether to create a second key pair, for a rotation. The next pair isn't used before O(use_key).
      - A next key pair stays until it is used.
    type: bool
    default: false
  use_key:
    description:
      - The public key of the pair to use, from RV(next_key) of an earlier run. Give it once all hosts accept this key.
      - Connections that are under way can still use the previous private key. A later task with O(hosts) removes it.
    type: str
  hosts:
    description:
      - All hosts of the site, also this one. Lines of the module for other hosts are removed.
      - Without this option, C(authorized_keys) and C(known_hosts) stay unchanged.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the host in the inventory, for the comment of its lines.
        type: str
        required: true
      names:
        description: Names and addresses by which hosts reach the host, each perhaps as C([NAME]:PORT). At least one is
          required with O(hosts[].keys).
        type: list
        elements: str
        default: []
      keys:
        description: Public keys of the user on the host. Without this option, all lines of the host stay unchanged.
        type: list
        elements: str
      host_keys:
        description: Public keys of the host itself.
        type: list
        elements: str
        default: []
      addresses:
        description:
          - Addresses and networks from which the host connects. Its keys are accepted only from these.
          - A loopback address counts only on the host itself.
        type: list
        elements: str
        default: []
seealso:
  - name: sshd(8)
    description: Format of the files.
    link: https://man.openbsd.org/sshd.8
"""

EXAMPLES = r"""
- name: Create the key pair
  granary.vmstore.cluster_ssh:
    user: oneadmin
    peers: [front.example.com, kvm1.example.com]
  register: pair

- name: Let both hosts connect to this host, and this host know both hosts
  granary.vmstore.cluster_ssh:
    user: oneadmin
    hosts:
      - name: front.example.com
        names: [front.example.com, 192.0.2.1]
        keys: ["{{ hostvars['front.example.com'].pair.public_key }}"]
        host_keys: "{{ hostvars['front.example.com'].pair.host_keys }}"
        addresses: "{{ hostvars['front.example.com'].pair.addresses }}"
      - name: kvm1.example.com
        names: [kvm1.example.com]
        keys: ["{{ hostvars['kvm1.example.com'].pair.public_key }}"]
        host_keys: "{{ hostvars['kvm1.example.com'].pair.host_keys }}"
        addresses: "{{ hostvars['kvm1.example.com'].pair.addresses }}"
"""

RETURN = r"""
public_key:
  description: The public key of the pair in use, without a comment.
  returned: success
  type: str
  sample: ssh-ed25519 AAAAC3Nz...
next_key:
  description: The public key of the next pair; null if there is none.
  returned: success
  type: str
host_keys:
  description: The public keys of this host, from C(/etc/ssh), without comments.
  returned: success
  type: list
  elements: str
  sample: [ssh-ed25519 AAAAC3Nz...]
addresses:
  description: The addresses of this host that the kernel chooses for connections to O(peers).
  returned: success
  type: list
  elements: str
  sample: [192.0.2.1, "2001:db8::1"]
authorized_keys:
  description: The keys in O(hosts) that this host accepts.
  returned: with O(hosts)
  type: list
  elements: str
  sample: [ssh-ed25519 AAAAC3Nz...]
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: write lines
      subject: /var/lib/one/.ssh/authorized_keys
      before:
      after:
        mode: "0600"
        lines:
          - from="192.0.2.1",restrict ssh-ed25519 AAAAC3Nz... granary.vmstore.cluster_ssh:front.example.com
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.cluster_ssh.service import (
    CLUSTER_SSH_SPEC,
    ClusterSshService,
)


def main() -> None:
    run_module(CLUSTER_SSH_SPEC, ClusterSshService)


if __name__ == "__main__":
    main()
