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
  - Compares the desired state with C(/etc/fstab) and with the live mounts (C(/proc/self/mountinfo)), and changes those
    that differ.
  - A mount with other options is remounted. A mount of another tag, or with an option that a remount can't change, is
    unmounted and mounted again. If the mount is in use, the module fails, names the users of the mount, and leaves
    everything as it was.
  - A mount is dead if its device was removed, even if the device is back. A dead mount is unmounted and mounted again,
    too.
  - Mounts of other types are never changed. Another file system on O(path), mounts stacked on it, or mounts below that
    it would hide, are errors. The error names these mounts.
  - A mount whose options don't take effect is unmounted again, and the module fails. C(/etc/fstab) is as before then.
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
      - The mount point. Missing directories are created with O(state=mounted).
      - A symbolic link is followed, and its target is the mount point. A link of another user leads only to directories
        of the same user.
      - With O(state=mounted) and O(state=present), directories of the system are refused under all of their names, such
        as C(/usr/bin), C(/etc/ssh), C(/var/lib/dpkg) or C(~/.ssh). C(/usr/local/data), C(/var/lib/mysql), C(/home) and
        C(/tmp/data) are accepted.
      - The module warns if the directory isn't empty, because a mount hides its content. It also warns if another user
        could replace a directory above by a link, because a boot would follow that link.
    type: str
    required: true
  tag:
    description:
      - The tag of the virtio-fs device.
      - Required with O(state=mounted) and O(state=present). With other states, the tag limits the task to a mount of
        this tag. Without it, the task is about a mount of any tag.
    type: str
  options:
    description:
      - Mount options, for example V(ro) or V(noatime). All others are the kernel's defaults.
      - V(x-...), V(_netdev), V(auto), V(noauto) and V(comment=...) are written to C(/etc/fstab) only.
      - Words are refused if a boot would mount something else with them, such as V(X-mount.subdir=...),
        V(X-mount.idmap=...) and V(x-systemd.automount). Words that order the mount, such as V(x-systemd.requires=...),
        and V(X-mount.mkdir) are accepted.
    type: list
    elements: str
    default: []
  nofail:
    description: Whether the guest boots without the tag. Written to C(/etc/fstab).
    type: bool
    default: true
  mode:
    description: Permissions of a created mount point, as a quoted octal number. They are visible while nothing is
      mounted on it.
    type: str
    default: "0755"
  state:
    description:
      - V(mounted) makes sure that the tag is mounted and in C(/etc/fstab).
      - V(present) makes sure that the tag is in C(/etc/fstab), and leaves live mounts as they are, for example while an
        image is prepared.
      - V(unmounted) makes sure that the tag isn't mounted now, and leaves C(/etc/fstab) as it is.
      - V(absent) makes sure that the tag is neither mounted nor in C(/etc/fstab). The directory stays.
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
