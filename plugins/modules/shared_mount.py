#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: shared_mount
short_description: Mount a file system that several hosts share
description:
  - Mounts a shared file system such as NFS, now and at every boot, and makes sure that it is the expected store, and
    that the service user can work in it.
  - Compares the desired state with C(/etc/fstab) and with the live mounts (C(/proc/self/mountinfo)), and changes those
    that differ. Both are in the diff.
  - A wrong store, an unknown export or an unsupported option changes nothing on the host. In check mode, the module
    mounts an NFS store in a mount namespace of its own, which the host doesn't see, and reads its marker, its owner and
    its mode there. So check mode reports these errors, too.
  - Nothing hangs. Every access to a mount ends after O(timeout) seconds, because a child process does it. A server that
    is away is an error that says so.
  - If a step fails, the steps before are undone.
  - A mount of another type on O(path), mounts that are stacked on it, a bind mount, an automount point, and mounts
    below that would be hidden, are errors. The error names these mounts.
  - Directories are never removed. C(/etc/fstab) is replaced atomically. Other lines and comments stay as they are.
    Where systemd runs, it reads the changed file at once.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
attributes:
  check_mode:
    support: full
    details:
      - A store that can't be mounted yet, because an earlier task exports it, is a warning in check mode.
      - The actions of O(verify) aren't tried in check mode, because they write to the store.
  diff_mode:
    support: full
  idempotent:
    support: full
requirements:
  - C(mount) of util-linux
  - for NFS, C(mount.nfs) of the package C(nfs-common) or C(nfs-utils)
options:
  path:
    description:
      - The mount point. Missing directories are created with O(state=mounted).
      - A symbolic link is followed, and its target is the mount point. A link of another user leads only to directories
        of the same user.
      - Directories of the system are refused, as in M(granary.vmstore.virtiofs_mount).
    type: str
    required: true
  source:
    description:
      - Source of the file system, for NFS C(server:/directory). An IPv6 address is in brackets.
      - Required with O(state=mounted) and O(state=present). With other states, the source limits the task to a mount of
        this source.
    type: str
  fstype:
    description:
      - Type of the file system. V(nfs) and V(nfs4) have their own defaults and checks. V(nfs4) refuses version 3.
      - Every other type that the kernel or a helper of C(mount) has is accepted, such as V(ceph), V(glusterfs),
        V(cifs), V(fuse.sshfs), or V(ext4) on a cluster block device. Types that are never shared are refused.
    type: str
    default: nfs
  options:
    description:
      - Mount options, for example V(noatime) or V(vers=3).
      - For NFS, an unknown option is an error, and the options V(hard), V(vers=4.2) and, from Linux 5.3 on,
        V(nconnect=4) are added unless the list decides otherwise. V(soft) is accepted with a warning, because a virtual
        disk loses data when the server is away for longer than the timeouts.
      - V(nolock) and V(local_lock) are options of version 3. Version 4 refuses them, because its kernel ignores them.
      - Of all other types, only options that the kernel shows can be compared with the live mount. If another option of
        the entry in C(/etc/fstab) changes, a warning says that it takes effect at the next mount.
      - A secret is refused, because every user can read mount options. Use V(credentials=/path) or
        V(secretfile=/path).
      - V(x-...), V(noauto) and V(comment=...) are written to C(/etc/fstab) only, as is V(_netdev), which is always
        added. V(x-systemd.automount) and other words with which a boot would mount something else are refused.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(mounted) makes sure that the file system is mounted and, with O(boot=true), in C(/etc/fstab). The options
        about the mounted store, such as O(owner), O(marker) and O(verify), have an effect only then.
      - V(present) makes sure that it is in C(/etc/fstab), and leaves live mounts as they are.
      - V(unmounted) makes sure that it isn't mounted now, and leaves C(/etc/fstab) as it is.
      - V(absent) makes sure that it is neither mounted nor in C(/etc/fstab). The directory stays.
    type: str
    choices: [mounted, present, unmounted, absent]
    default: mounted
  boot:
    description: Whether the file system is mounted at boot, by an entry in C(/etc/fstab).
    type: bool
    default: true
  nofail:
    description: Whether the host boots without the file system. Written to C(/etc/fstab).
    type: bool
    default: true
  owner:
    description: Owner of the root directory of the mounted store, by name or id. By default it stays as it is.
    type: str
  group:
    description: Group of that directory, by name or id. By default it stays as it is.
    type: str
  mode:
    description: Permissions of that directory, as a quoted octal number. By default they stay as they are.
    type: str
  marker:
    description:
      - The marker is the file C(.granary-store) in the root directory of the store, with a UUID. It shows that hosts
        have the same store.
      - V(create) creates a marker if the store has none. Use it on one host, such as the front-end.
      - V(require) makes sure that the store has a marker.
      - A UUID makes sure that the store has this marker. Use it on all other hosts, with the UUID that the first host
        returned.
    type: str
  verify:
    description: Actions that a user must be able to do in the mounted store. They are tried at every run, with a file
      that is removed at once. If one fails, the error has the remedy, and the changes of the task are undone.
    type: dict
    suboptions:
      user:
        description: The user, for example V(oneadmin).
        type: str
        required: true
      actions:
        description:
          - V(create) creates a file, which must belong to the user.
          - V(chmod) changes its mode.
          - V(chown) gives it to another user, as root does for virtual machines. NFS servers refuse that with
            C(root_squash).
          - V(lock) locks it.
        type: list
        elements: str
        choices: [create, chmod, chown, lock]
        default: [create, chmod, lock]
  remount:
    description:
      - What may be done to a live mount that differs.
      - V(never) refuses any change of a live mount.
      - V(live) remounts where a remount is enough, and refuses otherwise. For NFS, a remount changes only V(ro),
        V(noatime), V(nosuid), V(noexec), V(nodev) and their opposites.
      - V(unmount) also unmounts and mounts again. A mount in use is never unmounted, and the error names its users.
    type: str
    choices: [never, live, unmount]
    default: live
  nonempty:
    description: Whether a directory with files can be the mount point, although the mount hides these files.
    type: bool
    default: false
  lazy:
    description: Whether a mount that doesn't respond is detached (C(umount --lazy)). Programs that wait for the server
      still wait.
    type: bool
    default: false
  timeout:
    description: Seconds for each access to the file system, from 1 to 3600.
    type: int
    default: 30
seealso:
  - module: granary.vmstore.shared_mount_info
  - module: granary.vmstore.nfs_export
  - module: granary.vmstore.virtiofs_mount
"""

EXAMPLES = r"""
- name: Mount the store on the front-end, which marks it
  granary.vmstore.shared_mount:
    source: nfs1.example.com:/srv/datastores
    path: /var/lib/one/datastores
    owner: oneadmin
    group: oneadmin
    mode: "0750"
    marker: create
    verify:
      user: oneadmin
  register: store

- name: Mount the same store on a host
  granary.vmstore.shared_mount:
    source: nfs1.example.com:/srv/datastores
    path: /var/lib/one/datastores
    marker: "{{ store.mount.marker }}"
    verify:
      user: oneadmin
      actions: [create, chmod, chown, lock]

- name: Mount a Ceph file system with other options, even if that needs an unmount
  granary.vmstore.shared_mount:
    source: "192.0.2.1,192.0.2.2:/images"
    path: /srv/images
    fstype: ceph
    options: [name=one, secretfile=/etc/ceph/one.secret, noatime]
    remount: unmount

- name: Do without it, although the server is gone for good
  granary.vmstore.shared_mount:
    path: /srv/images
    fstype: ceph
    state: absent
    lazy: true
"""

RETURN = r"""
mount:
  description: The mount once the module is done.
  returned: success
  type: dict
  sample:
    path: /var/lib/one/datastores
    source: nfs1.example.com:/srv/datastores
    live: [rw, relatime, vers=4.2]
    fstab: [vers=4.2, hard, nconnect=4, _netdev, nofail]
    owner: oneadmin
    group: oneadmin
    mode: "0750"
    marker: 0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e
  contains:
    path:
      description: The mount point, without symbolic links.
      type: str
    source:
      description: The source.
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
    owner:
      description: Owner of the root directory of the store. V(null), like the following, if it isn't known.
      type: str
    group:
      description: Group of that directory.
      type: str
    mode:
      description: Permissions of that directory.
      type: str
    marker:
      description: UUID of the store. V(null) without a marker.
      type: str
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: add fstab entry
      subject: /etc/fstab
      before:
      after: "nfs1:/srv /srv/images nfs vers=4.2,hard,_netdev,nofail 0 0\n"
    - name: mount
      subject: /srv/images
      before:
      after: "nfs1:/srv type nfs (rw,relatime,vers=4.2)\n"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.mount.shared_mount import (
    SHARED_MOUNT_SPEC,
    build_shared_mount,
)


def main() -> None:
    run_module(SHARED_MOUNT_SPEC, build_shared_mount)


if __name__ == "__main__":
    main()
