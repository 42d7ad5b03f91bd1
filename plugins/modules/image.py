#!/usr/bin/python
# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Manage images
description:
  - Makes, registers, replaces and removes images, one or many in a run.
  - Images of type V(os), V(cdrom), V(datablock), V(kernel), V(ramdisk) and V(context) are files in their datastore.
    They are copied from a file of the front-end or a URL, cloned from another image, or made empty. What is on its way
    has a temporary name, so that a half-written image is never seen.
  - An image of type V(filesystem) is a directory of a host, which virtual machines mount through virtiofs. The
    directory itself is never changed, and stays where it is when the image is removed. It must be on the front-end or,
    where it isn't, on a host of the datastore's bridge list, which is asked over one ssh connection.
  - Symbolic links in a path are resolved, and the result has to be allowed by the safe and restricted directories of
    the datastore.
  - What is copied may be compressed with gzip, bzip2, xz or zstd, and is decompressed on the way, unless the
    datastore's attribute C(no_decompress) is set. Images that need other files are refused, such as a qcow2 image with
    a backing file.
  - For images of type V(os), V(cdrom) and V(datablock), whatever no guest could use as a disk is refused by its name.
    That are archives (such as tar, cpio, zip and 7z), other compressions (such as lz4 and lzma), containers of other
    programs (such as QED, Parallels, DMG and EWF) and documents (such as the HTML page of a proxy), also inside a
    compressed file. With C(no_decompress), compressed files and archives are stored as they are.
  - What nothing recognises is stored as a raw disk with a warning. It has no boot sector, partition table, file system,
    LVM or LUKS, and doesn't begin with zeros.
  - An empty file is refused, but for the type V(context).
  - Runs on the front-end.
  - A name has 1 to 128 printable characters, no blank at an end, and is not only digits, as those are an id.
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
      - Many images at the price of one. Each element has the options of a single image, from O(id) to O(state), with
        the same defaults.
      - The catalog and the directory of each datastore are read once.
      - What is refused is refused before anything is made. Where the data of some images can't be made, such as by a
        failing download, the others are made all the same, and then the module fails and names those. It returns what
        was done as if it had not failed.
      - An image can be the clone of one before it in the list.
      - Not together with the options of a single image.
    type: list
    elements: dict
  id:
    description:
      - Id of the image. Needed only to rename it, the name is its new name then.
      - A new image gets its id by itself, from 0 on. No id is given twice.
    type: int
  name:
    description: Name of the image. At least one of id and name is needed.
    type: str
  datastore:
    description: Name or id of its datastore. It can't change. A new image needs one.
    type: str
  type:
    description:
      - Type of the image. It can't change. A new image needs one, unless it is a clone, or its datastore takes images
        of one type only.
      - Datastores of type C(image) take V(os), V(cdrom) and V(datablock) with the driver C(fs), and V(filesystem) with
        the driver C(virtiofs); those of type C(file) take V(kernel), V(ramdisk) and V(context).
    type: str
    choices: [os, cdrom, datablock, kernel, ramdisk, context, filesystem]
  path:
    description:
      - What the image is made of, a file of the front-end or, for type V(filesystem), the directory. A link to it is
        followed.
      - Two images can have the same directory, for example one persistent and one read-only.
      - A file that changes after it was copied is no change.
      - The file can be a block device in C(/dev), such as a logical volume, which is read from its beginning to its
        end. As all of C(/dev) it is refused unless O(granary.vmstore.datastore#module:safe_dirs) names it, or a
        directory that holds it. A name counts that root made for the device, such as C(/dev/GROUP/VOLUME).
      - A device that is mounted, a part of another device or of a volume group, or open for writing in a program of
        this host, is refused unless O(verify) is V(false). A snapshot of it isn't.
    type: str
  url:
    description:
      - What the image is made of, with V(http), V(https) or V(ssh), such as C(ssh://user@host/path).
      - Certificates are verified, and proxies of the environment used. A broken download over HTTP goes on where it
        broke, if the server can.
      - User, password and query of a URL are not stored, and so not compared.
      - Another O(path) or O(url) with the O(checksum) that the image was made with is the same data. Only where it came
        from is recorded anew then.
    type: str
  checksum:
    description:
      - What the file or URL must have, as C(sha256:) and hexadecimal digits; C(md5), C(sha1), C(sha384) and C(sha512)
        are other algorithms.
      - It is that of the bytes as they are there, thus of a compressed file before it is decompressed.
      - Instead of the digits, the C(http) or C(https) URL of a file that has them, such as
        C(sha256:https://host/path/SHA256SUMS). Its lines are those of GNU coreutils or BSD, or it has nothing but the
        digits. The image is looked up by the last part of the path of the O(url) or O(path).
      - The front-end fetches that file in each run, also in check mode. Another checksum than the image was made with
        is refused like one that is given here, and O(force) replaces the data. Where the file can't be fetched or has
        no such checksum, an image that was made of the same O(url) or O(path) stays as it is, with a warning.
      - A signature of the file is not verified.
    type: str
  headers:
    description:
      - What the server of a O(url) with C(http) or C(https) is sent, such as C(Authorization) with a token, by the
        names of HTTP headers.
      - The file of a O(checksum) is fetched with them, too, if it is on the same server, or if the image is made of a
        O(path). They are sent along where a server redirects to itself, with the same scheme, host and port, and never
        to another one.
      - Their values are secrets. They are neither stored nor compared, nor printed or logged.
    type: dict
  ca_path:
    description:
      - A file of the front-end with the certificates of CAs in PEM. Only these are trusted to have signed those of the
        servers of O(url) and O(checksum), and of those that they redirect to. By default, the CAs that the front-end
        trusts are.
      - It isn't kept, and is read only when something is fetched.
    type: path
  clone_from:
    description:
      - Name or id of the image that a new image is a copy of. Both datastores are on the front-end or, with a bridge
        list, both have the same one and are in one directory.
      - That the other image is renamed, removed, or made anew under its name, is no change of the clone.
    type: str
  size:
    description:
      - Size in MiB of a new empty image of type V(os) or V(datablock). With V(G) or V(T) it is in GiB or TiB, such as
        V(10G).
      - An image that began empty grows to a larger one and keeps what it holds, while no domain is attached to it, no
        program has it open, and it has no snapshots. A file system in it is not grown.
      - It never shrinks. With O(force) a smaller one is a new empty image, and what the old one held is lost.
    type: str
  format:
    description:
      - Format of a new empty image. The default is the datastore's attribute C(driver), else V(raw).
      - With O(path) or O(url), what the image is made of has to be V(qcow2), or is taken for V(raw) whatever it looks
        like, and so is stored as it is. Without it, the content tells. It isn't kept, and so not compared.
      - V(raw) stores what would be refused as an archive, a container or a document, and silences the warning about
        what nothing recognises.
    type: str
    choices: [raw, qcow2]
  fs:
    description:
      - File system that is made in a new empty image. It is V(swap) or one that the datastore's attribute
        C(supported_fs) lists, which by default has C(ext2), C(ext3), C(ext4) and C(xfs).
      - Arguments of C(mkfs) can be in attributes of the datastore, such as C(fs_opts_ext4).
    type: str
  driver:
    description:
      - Format that what is copied is converted to. The default is the datastore's attribute C(driver); without that, it
        stays what it is.
      - Images of type V(cdrom), V(kernel), V(ramdisk) and V(context) are stored as they are, and have no such choice.
    type: str
    choices: [raw, qcow2]
  sparse:
    description: Whether blocks of zeros take no space in a new image. The default is the datastore's attribute
      C(sparse), else V(true).
    type: bool
  verify:
    description:
      - Whether a O(path), O(url) or O(clone_from) is refused that by its own tables isn't whole, that is marked as
        damaged, or that a program writes to meanwhile. What is there is stored with a warning otherwise. The default is
        the datastore's attribute C(verify), else V(true).
      - The tables are those of qcow2, VMDK, VDI, VHDX and VHD images, partition tables, file systems, and the volume
        descriptor of an ISO image. A raw disk with other content is whole.
      - It is about new data and isn't kept.
    type: bool
  persistent:
    description:
      - Whether one domain has the image for itself and keeps what it writes. The default of a new image is V(false).
      - An image of type V(filesystem) that is not persistent can be used by several domains if it is read-only.
    type: bool
  read_only:
    description: Whether every domain can only read the image. The default of a new image is V(true) for a V(cdrom),
      else V(false).
    type: bool
  mount_point:
    description: Where guests mount an image of type V(filesystem). The default of a new image is C(/mnt/one-fs-) and
      its id.
    type: str
  mount_tag:
    description:
      - The tag under which guests see an image of type V(filesystem), at most 36 letters, digits and C(_.+@-), not
        starting with a sign.
      - No two images have one tag. The default of a new image is C(one-) and its id.
    type: str
  uid_map:
    description: Which user ids of guests become which of the host, for type V(filesystem). Without it, the default of
      the host is used.
  gid_map:
    description: Which group ids of guests become which of the host, like user ids.
  remake:
    description:
      - Whether data that is proven to be wrong is made again from O(path), O(url), O(clone_from) or O(size). That is
        data without its end, and data with another checksum than the recorded one.
      - All data of the image is read for that. Of a persistent image, only whether it is whole is looked at, and
        O(force) is needed, too.
    type: bool
    default: false
  force:
    description:
      - Whether data may be replaced where the options describe other data than the image was made with, such as another
        path, checksum or a smaller size. What the image held is lost.
      - It is also the only way to replace or remove an image that a domain uses. The catalog forgets the attachments of
        an image that is removed.
      - Use is also what the catalog doesn't know, namely programs with the image's file open, QEMU's locks on it, and
        domains of libvirt, running or defined. This host is asked or, where the datastore has a bridge_list, each host
        in there that can be reached. Other hosts show only by QEMU's locks, and by attachments that the module
        granary.vmstore.image_attachment recorded. A user other than root sees no open files of other users.
      - Data that a running program has open is not replaced even so.
      - Where the data of a persistent image is lost, what domains wrote there is lost, too. It is only made anew with
        it.
      - Where the data of all images of a datastore is missing, its file system may not be mounted, and no image is made
        there without it.
    type: bool
    default: false
  state:
    description:
      - V(present) makes sure that the image exists as described. An option that isn't given stays as it is. Data that
        was lost is made again, unless the image is persistent.
      - V(absent) removes the image, its snapshots and its data; of type V(filesystem), only its entry in the catalog.
      - An image that a domain uses can neither be changed nor removed, whether the catalog knows of the use or not.
    type: str
    choices: [present, absent]
    default: present
  timeout:
    description: Seconds that a file system may take to say what a directory holds, from 1 to 86400. Copying takes as
      long as it takes.
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
