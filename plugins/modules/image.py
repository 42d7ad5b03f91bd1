#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Manage images
description:
  - Creates, registers, replaces and removes images, one or many in a run.
  - Images of type V(os), V(cdrom), V(datablock), V(kernel), V(ramdisk) and V(context) are files in their datastore.
    They are copied from a file of the front-end or a URL, cloned from another image, or created empty. Data in progress
    has a temporary name, so nobody ever sees a half-written image.
  - An image of type V(filesystem) is a directory of a host, which virtual machines mount through virtiofs. The module
    never changes the directory itself, and leaves it in place when the image is removed. The directory must be on the
    front-end, or on a host of the datastore's bridge list. A bridge is asked over one ssh connection.
  - Symbolic links in a path are resolved. The safe and restricted directories of the datastore must allow the result.
  - Copied data may be compressed with gzip, bzip2, xz or zstd. It is decompressed during the copy, unless the
    datastore's attribute C(no_decompress) is set. Images that need other files are refused, such as a qcow2 image with
    a backing file.
  - For images of type V(os), V(cdrom) and V(datablock), data that no guest could use as a disk is refused, and the
    error names its format. Refused are archives (such as tar, cpio, zip and 7z), other compressions (such as lz4 and
    lzma), containers of other programs (such as QED, Parallels, DMG and EWF) and documents (such as the HTML page of a
    proxy), also inside a compressed file. With C(no_decompress), compressed files and archives are stored as they are.
  - Data of an unknown format is stored as a raw disk with a warning. Such data has no boot sector, partition table,
    file system, LVM or LUKS, and does not begin with zeros.
  - An empty file is refused, except for the type V(context).
  - Runs on the front-end.
  - A name has 1 to 128 printable characters and no blank at either end. It is not only digits, because digits are an
    id.
author:
  - The granary.vmstore developers (@granary)
extends_documentation_fragment:
  - granary.vmstore._attributes
  - granary.vmstore._attributes.actiongroup_vmstore
  - granary.vmstore._catalog
  - granary.vmstore._id_maps
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  images:
    description:
      - Many images in one run, for the cost of one. Each element has the options of a single image, from O(id) to
        O(state), with the same defaults.
      - The catalog and the directory of each datastore are read once.
      - Invalid elements are refused before anything is created. If the data of some images can't be created, for
        example because a download fails, the other images are still created. The module then fails and names the failed
        images. It returns the completed changes as after a success.
      - An image can be the clone of an earlier image in the list.
      - Not together with the options of a single image.
    type: list
    elements: dict
  id:
    description:
      - Id of the image. Needed only to rename the image. The name option is the new name then.
      - A new image gets the next free id, starting at 0. No id is used twice.
    type: int
  name:
    description: Name of the image. At least one of id and name is required.
    type: str
  datastore:
    description: Name or id of the image's datastore. It can't change. Required for a new image.
    type: str
  type:
    description:
      - Type of the image. It can't change. Required for a new image, unless the image is a clone, or its datastore
        takes images of one type only.
      - Datastores of type C(image) take V(os), V(cdrom) and V(datablock) with the driver C(fs), and V(filesystem) with
        the driver C(virtiofs). Datastores of type C(file) take V(kernel), V(ramdisk) and V(context).
    type: str
    choices: [os, cdrom, datablock, kernel, ramdisk, context, filesystem]
  path:
    description:
      - The source of the image, a file of the front-end or, for type V(filesystem), the directory. Symbolic links are
        followed.
      - Two images can have the same directory, for example one persistent and one read-only.
      - A file that changes after the copy is no change of the image.
      - The file can be a block device in C(/dev), such as a logical volume. It is read from its beginning to its end.
        Like all of C(/dev), a device is refused unless O(granary.vmstore.datastore#module:safe_dirs) has the device or
        a directory above it. Only names count that root created for the device, such as C(/dev/GROUP/VOLUME).
      - A device is refused if it is mounted, a part of another device or of a volume group, or open for writing in a
        program of this host, unless O(verify) is V(false). A snapshot of the device is accepted.
    type: str
  url:
    description:
      - The source of the image, a URL with V(http), V(https) or V(ssh), such as C(ssh://user@host/path).
      - Certificates are verified, and proxies of the environment are used. A broken download over HTTP is resumed if
        the server supports that.
      - User, password and query of a URL are not stored, and so not compared.
      - If O(checksum) is the checksum that the image was created with, another O(path) or O(url) means the same data.
        The module then only records the new source.
    type: str
  checksum:
    description:
      - The required checksum of the file or URL, as C(sha256:) and hexadecimal digits. Other algorithms are C(md5),
        C(sha1), C(sha384) and C(sha512).
      - It is the checksum of the bytes at the source, thus of a compressed file before it is decompressed.
      - Instead of the digits, this can be the C(http) or C(https) URL of a file with checksums, such as
        C(sha256:https://host/path/SHA256SUMS). The lines of that file are those of GNU coreutils or BSD, or the file
        has nothing but the digits. The image's line is found by the last part of the path of the O(url) or O(path).
      - The front-end fetches that file in each run, also in check mode. Another checksum than the image was created
        with is refused like one that is given here, and O(force) replaces the data. If the file can't be fetched or
        lacks the checksum, an image that was created from the same O(url) or O(path) stays as it is, with a warning.
      - A signature of the file is not verified.
    type: str
  headers:
    description:
      - HTTP headers by name for the server of a O(url) with C(http) or C(https), such as C(Authorization) with a token.
      - The file of a O(checksum) is fetched with these headers, too, if the file is on the same server, or if the
        source is a O(path). The headers are sent again if a server redirects to itself, with the same scheme, host and
        port. They are never sent to another server.
      - The values are secrets. They are neither stored nor compared, nor printed or logged.
    type: dict
  ca_path:
    description:
      - A file of the front-end with CA certificates in PEM. Only these CAs are trusted for the servers of O(url) and
        O(checksum), and for the servers that they redirect to. The default is the CAs that the front-end trusts.
      - The path is not stored. The file is read only for a download.
    type: path
  clone_from:
    description:
      - Name or id of the image that a new image is a copy of. Both datastores are on the front-end. With a bridge list,
        both have the same list and are in one directory.
      - If the other image is renamed, removed, or created again under its name, the clone does not change.
    type: str
  from_disk:
    description:
      - The disk of a virtual machine (VM) that a new image is a copy of, such as a VM that was prepared as a template.
        The disk is one of M(granary.vmstore.vm_disk).
      - The disk of a running VM is copied as it is at one moment, while the VM runs on. The guest agent freezes the
        file systems of the guest for this moment, if the agent responds.
      - The image has the format of the disk and no backing file. The datastore has no bridge list.
      - If the disk changes afterwards, the image does not change.
    type: dict
    suboptions:
      vm:
        description: Name or id of the VM.
        type: str
        required: true
      disk:
        description: Number of the disk.
        type: int
        default: 0
      snapshot:
        description: Name of a snapshot of the disk, see M(granary.vmstore.vm_disk_snapshot). The default is the present
          data of the disk.
        type: str
  size:
    description:
      - Size in MiB of a new empty image of type V(os) or V(datablock). With V(G) or V(T), the size is in GiB or TiB,
        such as V(10G).
      - An image that was created empty grows to a larger size and keeps its data, as long as no domain is attached, no
        program has the image open, and it has no snapshots. A file system in the image does not grow.
      - An image never shrinks. With O(force), a smaller size creates a new empty image, and the old data is lost.
    type: str
  format:
    description:
      - Format of a new empty image. The default is the datastore's attribute C(driver), else V(raw).
      - With O(path) or O(url), V(qcow2) requires a source in qcow2. V(raw) stores the source as it is, whatever its
        content looks like. Without this option, the content decides. The option is not stored, and so not compared.
      - V(raw) also stores archives, containers and documents, and suppresses the warning about an unknown format.
    type: str
    choices: [raw, qcow2]
  fs:
    description:
      - File system of a new empty image, V(swap) or a file system in the datastore's attribute C(supported_fs). Its
        default is C(ext2), C(ext3), C(ext4) and C(xfs).
      - Arguments of C(mkfs) can be in attributes of the datastore, such as C(fs_opts_ext4).
    type: str
  driver:
    description:
      - Format to which copied data is converted. The default is the datastore's attribute C(driver). Without that
        attribute, data keeps its format.
      - Images of type V(cdrom), V(kernel), V(ramdisk) and V(context) are stored as they are, and don't take this
        option.
    type: str
    choices: [raw, qcow2]
  sparse:
    description: Whether blocks of zeros take no space in a new image. The default is the datastore's attribute
      C(sparse), else V(true).
    type: bool
  verify:
    description:
      - Whether to refuse a O(path), O(url) or O(clone_from) that is incomplete by its own tables, is marked as damaged,
        or is written to by a program during the copy. With V(false), such data is stored with a warning. The default is
        the datastore's attribute C(verify), else V(true).
      - The tables are those of qcow2, VMDK, VDI, VHDX and VHD images, partition tables, file systems, and the volume
        descriptor of an ISO image. A raw disk with other content counts as complete.
      - The option is about new data and is not stored.
    type: bool
  persistent:
    description:
      - Whether one domain has the image for itself and keeps its changes. The default of a new image is V(false).
      - Several domains can use an image of type V(filesystem) that is not persistent, if it is read-only.
    type: bool
  read_only:
    description: Whether every domain can only read the image. The default of a new image is V(true) for a V(cdrom),
      else V(false).
    type: bool
  mount_point:
    description: The mount point in guests of an image of type V(filesystem). The default of a new image is
      C(/mnt/one-fs-) and its id.
    type: str
  mount_tag:
    description:
      - The tag under which guests see an image of type V(filesystem), at most 36 letters, digits and C(_.+@-), not
        starting with a sign.
      - No two images have one tag. The default of a new image is C(one-) and its id.
    type: str
  uid_map:
    description: Map of user ids of guests to user ids of the host, for type V(filesystem). The default is that of the
      host.
  gid_map:
    description: Map of group ids, like O(uid_map).
  remake:
    description:
      - Whether to create provably wrong data again from O(path), O(url), O(clone_from) or O(size). Wrong is data
        without its end, and data with another checksum than the recorded one.
      - All data of the image is read for this check. A persistent image is only checked for being complete, and
        O(force) is required, too.
    type: bool
    default: false
  force:
    description:
      - Whether to replace data if the options describe other data than the image was created with, such as another
        path, another checksum or a smaller size. The old data is lost.
      - This option is also the only way to replace or remove an image that a domain uses. The catalog deletes the
        attachments of an image that is removed.
      - An image is also in use without an attachment in the catalog, that is by programs with the image's file open, by
        QEMU's locks on it, and by domains of libvirt, running or defined. This host is checked. If the datastore has a
        bridge_list, each of its hosts that can be reached is checked instead. On other hosts, only QEMU's locks and the
        attachments of the module granary.vmstore.image_attachment are seen. A user other than root does not see the
        open files of other users.
      - Data that a running program has open is not replaced even with V(true).
      - An image with disks of virtual machines is not removed even with V(true), and its data is not replaced if a disk
        is the image itself or a linked clone. Remove the disks with the module granary.vmstore.vm_disk first.
      - If the data of a persistent image is lost, the changes of its domains are lost, too. Such an image is only
        created again with V(true).
      - If the data of all images of a datastore is missing, its file system may not be mounted. Images are created
        there only with V(true).
    type: bool
    default: false
  state:
    description:
      - V(present) makes sure that the image exists as described. An option that is not given stays as it is. Lost data
        is created again, unless the image is persistent.
      - V(absent) removes the image, its snapshots and its data. Of an image of type V(filesystem), only the entry in
        the catalog is removed.
      - An image that a domain uses can neither be changed nor removed, also if the catalog has no attachment for that
        use.
    type: str
    choices: [present, absent]
    default: present
  timeout:
    description: Upper bound of the seconds for measuring a directory, from 1 to 86400. Copying has no bound.
    type: int
    default: 300
notes:
  - In check mode a file is looked at as in a run, and read where it is compressed or has a checksum. Where C(mkfs)
    can't be kept from writing, it is tried on a sparse temporary file. Of a URL only the beginning is read, so the
    checksum of a larger file isn't verified, and whether its data fits isn't known. Each image is looked at by itself,
    so whether all new images of a list fit together isn't known, either.
  - In check mode, a datastore that is missing is a warning and a change, because an earlier task of the play may make
    it.
  - The size of a directory is measured in each run that gives its path, and returned. That it differs from the last
    time is no change, because files come and go. The catalog keeps the size of the time when the image was registered
    or last changed.
seealso:
  - module: granary.vmstore.image_info
  - module: granary.vmstore.image_attachment
  - module: granary.vmstore.virtiofs_export
"""

EXAMPLES = r"""
- name: Register a directory for one virtual machine
  granary.vmstore.image:
    name: fs_data
    datastore: fs_datastore
    path: /mnt/data
    persistent: true

- name: Register it for many readers, under a tag and a mount point of our own
  granary.vmstore.image:
    name: fs_data_readers
    datastore: fs_datastore
    path: /mnt/data
    read_only: true
    mount_tag: one-tag
    mount_point: /srv/data

- name: Fetch the image of an operating system, as qcow2
  granary.vmstore.image:
    name: debian-12
    datastore: default
    type: os
    url: https://cloud.debian.org/images/cloud/bookworm/20260101-2350/debian-12-generic-amd64-20260101-2350.qcow2
    checksum: sha512:{{ debian_sha512 }}
    driver: qcow2

- name: Fetch an image from a server of our own, with the checksum that is published beside it
  granary.vmstore.image:
    name: builder
    datastore: default
    type: os
    url: https://artifacts.example.com/images/builder.qcow2
    checksum: sha256:https://artifacts.example.com/images/SHA256SUMS
    headers:
      Authorization: Bearer {{ artifacts_token }}
    ca_path: /etc/ssl/example-ca.pem

- name: Make a clone and two empty disks in one run
  granary.vmstore.image:
    images:
      - name: web-root
        datastore: default
        clone_from: debian-12
        persistent: true
      - name: web-data
        datastore: default
        type: datablock
        size: 20480
        format: qcow2
        fs: xfs
        persistent: true
      - name: web-swap
        datastore: default
        type: datablock
        size: 2048
        fs: swap

- name: Remove an image with all it holds
  granary.vmstore.image:
    name: web-swap
    state: absent
"""

RETURN = r"""
image:
  description: The image once the module is done. What isn't known in check mode before data is made, such as its path,
    is null there.
  returned: O(state=present) and not O(images)
  type: dict
  sample:
    id: 0
    name: fs_data
    datastore: fs_datastore
    datastore_id: 100
    type: filesystem
    path: /mnt/data
    format: dir
    size_mb: 81
    persistent: true
    read_only: false
    fs:
    origin:
    origin_checksum:
    checksum:
    mount_tag: one-0
    mount_point: /mnt/one-fs-0
    uid_map:
    gid_map:
  contains: &image
    id:
      description: Its id. Ids are given from 0 on and never twice.
      type: int
    name:
      description: Its name.
      type: str
    datastore:
      description: Name of its datastore.
      type: str
    datastore_id:
      description: Id of its datastore.
      type: int
    type:
      description: Its type.
      type: str
    path:
      description: The file that holds its data or, for type V(filesystem), the directory with symbolic links resolved.
      type: str
    format:
      description: Format of its data, such as V(raw) or V(qcow2); V(dir) for type V(filesystem).
      type: str
    size_mb:
      description:
        - Its virtual size in MiB, rounded up.
        - For type V(filesystem), MiB that the directory holds on disk, as C(du) counts. Of this run if the path is
          given, else as registered.
      type: int
    persistent:
      description: Whether one domain has it for itself.
      type: bool
    read_only:
      description: Whether domains can only read it.
      type: bool
    fs:
      description: File system that was made in it, or null.
      type: str
    origin:
      description:
        - The path or URL that it is a copy of, or C(image:) and the name of the image that it is a clone of, or null.
        - That is the name of today or, where the image was removed, that of the time when the clone was made.
      type: str
    origin_checksum:
      description: Checksum that was asked for when it was copied, or null.
      type: str
    checksum:
      description: Checksum of its data as stored, where it was recorded, or null.
      type: str
    mount_tag:
      description: The tag that guests see, or null.
      type: str
    mount_point:
      description: Where guests mount it, or null.
      type: str
    uid_map:
      description: Maps of user ids, or null for the default of the host.
      type: list
      elements: dict
    gid_map:
      description: Maps of group ids, like those of user ids.
      type: list
      elements: dict
images:
  description: The images once the module is done, in the order of the option, without those that are absent.
  returned: O(images)
  type: list
  elements: dict
  contains: *image
actions:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - name: create image
      subject: fs_data
      before:
      after:
        id: 0
        name: fs_data
"""

from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService


def main() -> None:
    run_module(IMAGE_SPEC, ImageService)


if __name__ == "__main__":
    main()
