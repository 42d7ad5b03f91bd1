#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virtiofs_mount
short_description: Mount a virtiofs tag in a guest
description:
  - Mounts a directory of the host, which the virtual machine sees as a virtio-fs device with a tag, now and at every
    boot.
  - Compares three things, namely what is asked for, what C(/etc/fstab) says, and what is mounted
    (C(/proc/self/mountinfo)), and changes those that differ.
  - A mount with other options is remounted. One of another tag, or with an option that a remount can't change, is
    unmounted and mounted again. When it is in use, the module fails, says by whom, and leaves everything as it was.
  - A mount whose device was taken away, and is back, is dead. It is unmounted and mounted again, too.
  - What isn't virtiofs is never touched. Another file system on O(path), mounts stacked on it, or mounts below that it
    would hide, are an error that names them.
  - A mount whose options don't take effect is taken back, and the module fails. C(/etc/fstab) then is as it was.
  - C(/etc/fstab) is replaced atomically. Other lines and comments stay as they are. Where systemd runs, it reads the
    changed file at once.
  - Runs in the guest. A guest without Ansible can mount by cloud-init, see M(granary.vmstore.virtiofs_export).
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
requirements:
  - a Linux kernel with virtiofs (5.4 or later, C(CONFIG_VIRTIO_FS))
  - C(mount) of util-linux
options:
  path:
    description:
      - The mount point. Directories that are missing are created when O(state=mounted).
      - A symbolic link is followed, and the mount point is what it leads to. A link of another user leads only to
        directories of the same user.
      - With O(state=mounted) and O(state=present), no directory of the system is accepted, such as C(/usr/bin),
        C(/etc/ssh), C(/var/lib/dpkg) or C(~/.ssh), under none of its names. C(/usr/local/data), C(/var/lib/mysql),
        C(/home) or C(/tmp/data) are.
      - The module warns when the directory isn't empty, because a mount hides its content, and when another user could
        replace a directory above by a link, because a boot would follow that.
    type: str
    required: true
  tag:
    description:
      - The tag of the virtio-fs device.
      - Required with O(state=mounted) and O(state=present). Otherwise, only a mount of this tag is meant, or without it
        that of any tag.
    type: str
  options:
    description:
      - Mount options, for example V(ro) or V(noatime). All others are the kernel's defaults.
      - V(x-...), V(_netdev), V(auto), V(noauto) and V(comment=...) are written to C(/etc/fstab) only.
      - Words with which a boot would mount something else than is mounted now are refused, such as
        V(X-mount.subdir=...), V(X-mount.idmap=...) and V(x-systemd.automount). Words that order the mount, such as
        V(x-systemd.requires=...), and V(X-mount.mkdir) are accepted.
    type: list
    elements: str
    default: []
  nofail:
    description: Whether the guest boots even when the tag is missing then. Written to C(/etc/fstab).
    type: bool
    default: true
  mode:
    description: Permissions of the mount point when it is created, as a quoted octal number. They are seen while
      nothing is mounted on it.
    type: str
    default: "0755"
  state:
    description:
      - V(mounted) makes sure that the tag is mounted and in C(/etc/fstab).
      - V(present) makes sure that it is in C(/etc/fstab), whatever is mounted now, for example while an image is
        prepared.
      - V(unmounted) makes sure that it isn't mounted now, and leaves C(/etc/fstab) as it is.
      - V(absent) makes sure that it is neither mounted nor in C(/etc/fstab). The directory stays.
    type: str
    choices: [mounted, present, unmounted, absent]
    default: mounted
seealso:
  - module: granary.vmstore.virtiofs_mount_info
  - module: granary.vmstore.virtiofs_export
"""

EXAMPLES = r"""
- name: Mount the share of an image
  granary.vmstore.virtiofs_mount:
    tag: one-0
    path: /mnt/one-fs-0

- name: Mount another one for reading
  granary.vmstore.virtiofs_mount:
    tag: datasets
    path: /srv/datasets
    options: [ro, noatime]

- name: Do without it
  granary.vmstore.virtiofs_mount:
    path: /srv/datasets
    state: absent
"""

RETURN = r"""
mount:
  description: The mount once the module is done.
  returned: success
  type: dict
  sample:
    path: /srv/datasets
    tag: datasets
    live: [ro, noatime]
    fstab: [ro, noatime, nofail]
  contains:
    path:
      description: The mount point, without symbolic links.
      type: str
    tag:
      description: The tag.
      type: str
    live:
      description: Read-write or read-only, how access times are kept, and all options that aren't the default. V(null)
        when it isn't mounted.
      type: list
      elements: str
    fstab:
      description: The options in C(/etc/fstab), V(null) when it isn't there.
      type: list
      elements: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: add fstab entry
      subject: /etc/fstab
      before:
      after: "one-0 /mnt/one-fs-0 virtiofs nofail 0 0\n"
    - name: mount
      subject: /mnt/one-fs-0
      before:
      after: "one-0 type virtiofs (rw,relatime)\n"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.virtiofs_mount import (
    VIRTIOFS_MOUNT_SPEC,
    build_virtiofs_mount,
)


def main() -> None:
    run_module(VIRTIOFS_MOUNT_SPEC, build_virtiofs_mount)


if __name__ == "__main__":
    main()
