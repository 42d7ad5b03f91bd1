#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virtiofs_export
short_description: Share a directory of a hypervisor with a virtual machine
description:
  - Adds a virtiofs device to a libvirt domain, changes the device, or removes it. The device shares an image of the
    catalog or any directory.
  - Runs on the hypervisor, as root.
  - The module changes the definition of the domain. Where that is possible, it also plugs the device into the running
    domain or unplugs it. If the running domain needs a restart for the change, RV(restart_required) is true on this and
    every later run until the restart. A restart is a stop and a start, and O(restart) does both. A reboot from within
    the guest keeps the old devices.
  - The module also checks the virtiofsd of a running device. If virtiofsd has died, only a restart helps the guest. If
    virtiofsd serves another directory than the current one at O(source), because a file system was mounted or unmounted
    there, the guest writes to a directory that is hidden from this host. The module warns of both, and
    RV(restart_required) is true. In the second case, O(restart) doesn't restart the domain, because only you know which
    directory is right.
  - A warning names accounts of this host, and users with subordinate ids, whose ids are those that the guest's ids are
    mapped to.
  - Virtiofs needs shared memory. When a device is added, the memory of the domain becomes shared. Huge pages and memory
    that is backed by files are kept. Otherwise the source becomes memfd. The memory stays shared when the device is
    removed.
  - Nothing else in the definition changes. The module reads the definition back and compares it. It restores the old
    definition if libvirt changed anything else or dropped a part of the device.
  - The ids of the guest are mapped to subordinate ids of O(service_user), so that root of the guest isn't root in the
    directory. This needs libvirt 10.0.0, virtiofsd in Rust, and a virtiofsd that doesn't run as root. The role
    P(granary.vmstore.hypervisor#role) sets this up.
  - The directory is recorded on this host. The wrapper that the role installs opens the directory again at each start
    of the domain. The wrapper follows no symbolic link that others than root can replace. It refuses to start virtiofsd
    if another directory or another mount is at the path. This module refuses that, too. To share the new directory,
    remove the export and add it again. The next run records an export of an earlier version that has no record.
  - The module warns if others than root can replace the directory, and if its file system isn't mounted with C(nosuid),
    see O(subid).
  - Virtiofs has neither snapshots nor backups. A directory can't be attached as a disk, resized, cloned or saved as
    another image.
author:
  - The granary.vmstore developers (@granary)
requirements:
  - python3-libvirt
  - virtiofsd
  - uidmap (C(newuidmap), C(newgidmap)) to map ids
  - xorriso for O(seed)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._id_maps
  - granary.vmstore._restart
attributes:
  check_mode:
    support: full
    details:
      - A guest may refuse to release a device, and check mode can't predict that.
      - If libvirt, the wrapper, the domain or the image is missing, RV(device) has only the known values. The tag and
        mount point of an image that isn't in the catalog yet are those that the next new image gets.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  domain:
    description: Name or UUID of the libvirt domain. It must be persistent to get an export.
    type: str
    required: true
  image:
    description:
      - Name or id of an image of type filesystem in the catalog on this host.
      - The catalog records the attachment before the domain is changed, and deletes the record if the change fails.
      - An attachment of the image to a domain that libvirt on this host no longer has is deleted, with a warning.
    type: str
  attachment:
    description:
      - RV(granary.vmstore.image_attachment#module:attachment), if the catalog is on another host.
      - Directories of the system themselves (C(/), C(/etc), C(/var) and the like) are refused here, too, whatever a
        datastore allows.
      - Its values of tag, mount point, read-only and id maps are final. Pass these options to
        M(granary.vmstore.image_attachment).
    type: dict
  source:
    description:
      - Absolute path of a directory that is not an image. Symbolic links are resolved now, and their target is
        exported. A link that others than root can replace is refused.
      - Directories of the system (C(/etc), C(/usr), C(/var) and the like, and directories that contain one of them) are
        refused, except those in C(/var/tmp).
      - The module does not check whether other domains use the directory.
    type: str
  mount_tag:
    description:
      - The name by which the guest mounts the directory.
      - The default is that of the image. Required with O(source).
      - A device keeps its tag. To change the tag, remove the export and add it again.
      - With O(state=absent), the tag alone can name the device.
    type: str
  mount_point:
    description:
      - The mount point in the guest. The catalog and O(seed) store it, and RV(device.mount_point) returns it.
      - The default is that of the image. Required with O(source) and O(seed).
    type: str
  read_only:
    description:
      - Whether the guest can't write. It can't be V(false) for an image that is read-only.
      - The default is that of the image, and V(false) for O(source).
      - Needs libvirt 11.0.0 and virtiofsd 1.13.
    type: bool
  uid_map:
    description:
      - Map of user ids of the guest to ids of this host. These ids must be subordinate ids of O(service_user), and the
        map must have id 0 of the guest.
      - The default is that of the image, else id 0 on the first subordinate id, for the whole of the first range.
  gid_map:
    description: Map of group ids of the guest to ids of this host, like O(uid_map).
  cache:
    description:
      - How long the guest may keep cached data.
      - V(none) shows every change by this host or another guest at once. Programs in the guest that map files into
        shared memory for writing may not run.
      - V(auto) leaves the cache to virtiofsd, which shows changes after about a second and when a file is opened.
      - V(always) is for a directory that only this guest writes to. Cached data is never read again.
    type: str
    choices: [none, auto, always]
    default: none
  queue:
    description: Length of the device's queue, a power of 2 up to 1024. Stays as it is if not given.
    type: int
  xattr:
    description:
      - Whether the guest can use extended attributes. Stays as it is if not given.
      - The wrapper of the role P(granary.vmstore.hypervisor#role) refuses attributes that security modules of the host
        act on, such as C(security.selinux).
    type: bool
  sandbox:
    description: The isolation of virtiofsd. V(chroot) is possible without id maps only. Stays as it is if not given.
    type: str
    choices: [namespace, chroot]
  thread_pool:
    description: Number of virtiofsd's threads. Stays as it is if not given.
    type: int
  binary:
    description:
      - Path of the virtiofsd to use. A script is taken for a wrapper that runs it as O(service_user).
      - The default is C(/usr/local/libexec/granary-virtiofsd) where the role P(granary.vmstore.hypervisor#role)
        installed it, else libvirt's own choice.
    type: str
  service_user:
    description:
      - The user as which the wrapper runs virtiofsd.
      - The default is the user that the role P(granary.vmstore.hypervisor#role) wrote to
        C(/etc/granary-vmstore/virtiofsd.json), else V(oneadmin).
    type: str
  subid:
    description:
      - The subordinate ids of the guest if O(uid_map) and O(gid_map), and those of the image, are not given.
      - V(shared) is the first range of O(service_user), the same for all domains. Files and processes of one guest then
        belong to every other guest, too. A user of this host who runs a setuid program that one guest created can write
        to the shares of all guests and stop their virtiofsd.
      - V(per_domain) gives the domain a range of 65536 ids that no other domain has, and is recommended. The range is
        allocated with the first export, added to C(/etc/subuid) and C(/etc/subgid), used by all exports of the domain
        with this value, and freed with the last of them. The UUID of the domain decides the range, so the range is the
        same on every host, unless another domain has it there. If a directory service grants subordinate ids, the range
        is one of those after the first range.
      - With V(per_domain), files of one guest belong to nobody in another guest. Guests that change each other's files
        need the same map.
      - Files keep their owner when this option changes. Change the owners on the host, see RV(device.owners).
    type: str
    choices: [shared, per_domain]
    default: shared
  allow_unmapped:
    description:
      - Whether to export without id maps if this host can't map ids and no map was given.
      - Root of the guest is then root in the directory.
    type: bool
    default: false
  owner:
    description:
      - The owner of the directory itself. An id or the name of a user of this host, or V(guest:) and an id of the
        guest, such as V(guest:0) for its root. With O(subid=per_domain), only the latter is known before the first
        export.
      - The content of the directory keeps its owners. Without this option, the directory keeps its owner, too.
        O(state=absent) leaves the owner as it is.
      - A directory is not changed if another user than its owner could have put it there. A missing directory is not
        created, because it may be a file system that isn't mounted. Use M(granary.vmstore.directory) to create it.
    type: str
  group:
    description: The group of the directory itself, like O(owner).
    type: str
  mode:
    description: Permissions of the directory itself, as a quoted octal number. Without this option, they stay.
    type: str
  seed:
    description:
      - Path of a seed, an image on this host that makes cloud-init in the guest mount the export at boot (NoCloud). A
        missing seed is created.
      - A domain without a CD-ROM drive for the seed gets a read-only drive.
      - The seed has the mounts of all exports of the domain that were given with it. A domain needs a seed of its own.
      - O(state=absent) removes the mount from the seed and leaves the drive.
    type: str
  uri:
    description: URI of libvirt on this host.
    type: str
    default: qemu:///system
  host:
    description: The name of this host in the catalog. The default is its node name.
    type: str
  catalog:
    description: Path of the catalog.
    type: path
    default: /var/lib/one/vmstore/catalog.sqlite
  state:
    description:
      - V(present) makes sure that the domain has the export.
      - V(absent) removes this device only, and its attachment if the catalog is on this host. The directory stays.
        O(image), O(attachment), O(source) or O(mount_tag), or several of them together, name the device. Unmount it in
        the guest first. A domain that doesn't exist has no export.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: granary.vmstore.virtiofs_export_info
  - module: granary.vmstore.image_attachment
  - module: granary.vmstore.virtiofs_mount
  - module: granary.vmstore.subid
  - name: The filesystem device of libvirt
    description: What libvirt makes of the device.
    link: https://libvirt.org/formatdomain.html#filesystems
"""

EXAMPLES = r"""
- name: Share an image with a domain
  granary.vmstore.virtiofs_export:
    domain: web1
    image: fs_data
  register: export

- name: Say why the domain has to be restarted to have the export, if it has
  ansible.builtin.debug:
    msg: "{{ export.restart_reasons }}"
  when: export.restart_required

- name: Share another one, and let the guest shut down and start if it needs that
  granary.vmstore.virtiofs_export:
    domain: web1
    image: fs_logs
    restart: when_needed
    restart_timeout: 300

- name: Share a directory that is no image, read-only
  granary.vmstore.virtiofs_export:
    domain: web1
    source: /srv/models
    mount_tag: models
    read_only: true

- name: Share a directory, with ids that no other guest has
  granary.vmstore.virtiofs_export:
    domain: web1
    source: /srv/web1
    mount_tag: web1
    subid: per_domain

- name: Make a directory for one guest, and give it to the guest's root
  granary.vmstore.directory:
    path: /srv/web2
    mode: "0750"

- name: Share it
  granary.vmstore.virtiofs_export:
    domain: web2
    source: /srv/web2
    mount_tag: web2
    subid: per_domain
    owner: guest:0
    group: guest:0

- name: Claim an image in the catalog, which is on the front-end
  granary.vmstore.image_attachment:
    image: fs_data
    host: "{{ inventory_hostname }}"
    domain: web2
  delegate_to: frontend
  register: recorded

- name: Share it with a domain of this hypervisor
  granary.vmstore.virtiofs_export:
    domain: web2
    attachment: "{{ recorded.attachment }}"

- name: Let cloud-init mount it at boot
  granary.vmstore.virtiofs_export:
    domain: web3
    source: /srv/models
    mount_tag: models
    mount_point: /models
    seed: /var/lib/libvirt/images/web3-seed.iso

- name: Remove an export
  granary.vmstore.virtiofs_export:
    domain: web1
    mount_tag: models
    state: absent
"""

RETURN = r"""
domain:
  description: Name of the domain.
  returned: success
  type: str
  sample: web1
device:
  description: The export. V(none) with O(state=absent).
  returned: success
  type: dict
  contains:
    image:
      description: Name of the image, V(none) for a directory that is no image.
      type: str
      sample: fs_data
    mount_tag:
      description: The tag that the guest mounts.
      type: str
      sample: one-5
    source:
      description: The directory on this host.
      type: str
      sample: /mnt/data
    mount_point:
      description: Where the guest mounts it, V(none) if nobody said.
      type: str
      sample: /mnt/one-fs-5
    read_only:
      description: Whether the guest can't write.
      type: bool
    uid_map:
      description: The map of user ids, a list of dictionaries with C(start), C(target) and C(count). Empty without a
        map.
      type: list
      elements: dict
      sample:
        - start: 0
          target: 100000
          count: 65536
    gid_map:
      description: The map of group ids, like RV(device.uid_map).
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
      description: As O(cache).
      type: str
      sample: none
    queue:
      description: As O(queue), V(none) for libvirt's default.
      type: int
    xattr:
      description: As O(xattr), V(none) for libvirt's default.
      type: bool
    sandbox:
      description: As O(sandbox), V(none) for libvirt's default.
      type: str
    thread_pool:
      description: As O(thread_pool), V(none) for libvirt's default.
      type: int
    binary:
      description: The virtiofsd, V(none) for libvirt's choice.
      type: str
      sample: /usr/local/libexec/granary-virtiofsd
mapped:
  description: Whether ids are mapped. If not, root of the guest is root in the directory.
  returned: success
  type: bool
restart_required:
  description:
    - Whether the domain has to be stopped and started to be what was asked for. In check mode, before O(restart) would
      have done it.
    - The image of a device that is to be removed keeps its attachment until then, because the guest can still write to
      it.
  returned: success
  type: bool
restart_reasons:
  description: Why, one sentence each.
  returned: success
  type: list
  elements: str
  sample: [the memory of the running domain is not shared, which virtiofs needs]
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: add virtiofs device
      subject: domain 'web1'
      before:
      after: "<filesystem type=\"mount\" accessmode=\"passthrough\">...</filesystem>\n"
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.export import VirtiofsExportService
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.options import VIRTIOFS_EXPORT_SPEC


def main() -> None:
    run_module(VIRTIOFS_EXPORT_SPEC, VirtiofsExportService)


if __name__ == "__main__":
    main()
