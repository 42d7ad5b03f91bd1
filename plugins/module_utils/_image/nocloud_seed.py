# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A NoCloud seed that makes cloud-init mount a guest's virtiofs tags: a small ISO 9660 image.

cloud-init runs its ``mounts`` once per instance. With a new instance id, cloud-init would repeat everything: host keys
of ssh, package sources, the default user. So the instance id is that of the domain and never changes. A ``bootcmd``,
which runs at every boot before ``mounts``, deletes the record that ``mounts`` has run. The next boot then applies a
changed seed, and nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence

from .._core.directory import open_file_at, opened_parent
from .._core.errors import Conflict, InvalidInput, from_os_error
from .._core.plain import from_plain, to_plain
from .._core.records import dataclass
from .._host.mount.virtiofs import VIRTIOFS_OPTIONS
from .._model.mount_names import check_mount_point, check_mount_tag
from .iso_image import IsoLabels, iso_bytes, read_files, read_labels

#: The volume id by which cloud-init finds a NoCloud seed.
VOLUME_ID = "cidata"
#: The file that marks a seed of this collection, and describes its content.
MARKER = "granary"
#: Version of the generated files. A new version rewrites existing seeds.
FORMAT = 1

#: Upper bound of a seed in bytes. A seed of this collection has some 400 KiB.
_LARGEST = 4 * 1024 * 1024
_INSTANCE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
#: Names that cloud-init treats as block devices, or looks up in its metadata (cloudinit/config/cc_mounts.py).
_DEVICE_NAME = r"x?[shv]d[a-z][0-9]*|sr[0-9]+|ami|root|swap|ephemeral.*|ebs.*"


@dataclass(frozen=True)
class SeedMount:
    """A virtiofs mount.

    :arg options: further options for fstab, separated by commas.
    """

    tag: str
    mount_point: str
    read_only: bool = False
    options: str = ""


@dataclass(frozen=True)
class Seed:
    """The content of a seed. Two seeds that are equal have the same files."""

    instance_id: str
    mounts: tuple[SeedMount, ...]
    format: int = FORMAT


def read_seed(path: str) -> Seed | None:
    """Return the seed in the file ``path``, or ``None`` if the file is missing.

    :raises Conflict: this collection didn't write the file.
    :raises PathNotAllowed: a link of another user leads elsewhere.
    """
    try:
        with opened_parent(path, option="seed") as (directory, name):
            with os.fdopen(open_file_at(directory, name), "rb") as file:
                data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        if os.path.islink(path):
            raise _not_ours(path) from None
        return None
    except OSError as error:
        if error.errno in (
            errno.EINVAL,
            errno.ELOOP,
            errno.ENXIO,
        ):  # a directory, a FIFO, a new link, or a socket
            raise _not_ours(path) from error
        raise from_os_error(error, f"read {path}") from error
    try:
        return _parse_marker(_read_marker(data))
    except (ArithmeticError, InvalidInput, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _not_ours(path) from error


def _not_ours(path: str) -> Conflict:
    return Conflict(
        f"The file {path} is not a seed that this collection wrote; it is left alone, so remove it or name another "
        "file."
    )


def seed_bytes(instance_id: str, mounts: Sequence[SeedMount]) -> bytes:
    """Return the ISO 9660 image. The same input and the same xorriso give the same bytes.

    :arg instance_id: the domain's uuid.
    :raises InvalidInput: a tag or a mount point that cloud-init can't carry.
    :raises CommandFailed: xorriso isn't installed, or failed.
    """
    return iso_bytes(IsoLabels(VOLUME_ID), _contents(Seed(instance_id, tuple(mounts))))


def cloud_files(
    instance_id: str, mounts: Sequence[SeedMount], *, hostname: str | None = None, ssh_keys: Sequence[str] = ()
) -> dict[str, bytes]:
    """Return the files that cloud-init reads, by name. JSON is written in place of YAML, because all JSON is YAML.

    :raises InvalidInput: an instance id, a tag or a mount point that cloud-init can't carry.
    """
    if re.fullmatch(_INSTANCE_ID, instance_id) is None:
        raise InvalidInput("instance_id", instance_id, "a domain's uuid is expected")
    lines = [_fstab_fields(mount) for mount in mounts]
    points = [line[1] for line in lines]
    for point in points:
        if points.count(point) > 1:
            raise InvalidInput("mount_point", point, "one mount a mount point is expected")
    user_data: dict[str, object] = {
        "bootcmd": [
            ["rm", "-f", "/var/lib/cloud/instance/sem/config_mounts"],
            # cc_mounts removes its old lines only if it adds a new line.
            ["sed", "-i", r"/[[:blank:]]virtiofs[[:blank:]].*comment=cloudconfig/d", "/etc/fstab"],
        ],
    }
    if lines:  # cloud-init logs a warning about an empty list
        user_data["mounts"] = lines
    if ssh_keys:
        user_data["ssh_authorized_keys"] = list(ssh_keys)
    meta_data = {"instance-id": instance_id, **({} if hostname is None else {"local-hostname": hostname})}
    return {"meta-data": _json(meta_data), "user-data": b"#cloud-config\n" + _json(user_data)}


def _contents(seed: Seed) -> dict[str, bytes]:
    """Return the seed's files by name."""
    return {**cloud_files(seed.instance_id, seed.mounts), MARKER: _json(to_plain(seed))}


def _fstab_fields(mount: SeedMount) -> list[str]:
    tag = check_mount_tag("mount_tag", mount.tag)
    if re.fullmatch(_DEVICE_NAME, tag):
        raise InvalidInput("mount_tag", tag, "cloud-init takes it for a block device, so another tag is expected")
    point = check_mount_point("mount_point", mount.mount_point)
    if re.search(r"[\s\\#]", point):
        raise InvalidInput(
            "mount_point",
            point,
            "cloud-init writes it to fstab as it is, so a path without blanks, '\\' and '#' is expected",
        )
    words = VIRTIOFS_OPTIONS.check("options", [*(["ro"] if mount.read_only else []), mount.options])
    return [tag, point, "virtiofs", ",".join([*words, "nofail"]), "0", "0"]


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _parse_marker(data: bytes) -> Seed:
    """Read a marker that ``_contents`` wrote.

    :raises ArithmeticError, InvalidInput, LookupError, RecursionError, TypeError, ValueError: ``data`` is no valid
        marker.
    """
    seed = from_plain(Seed, json.loads(data.decode("utf-8")))
    _contents(seed)  # a seed that can't be written is invalid
    return seed


def _read_marker(data: bytes) -> bytes:
    """Return the marker in an ISO 9660 image.

    :raises ValueError: ``data`` isn't a NoCloud seed.
    :raises LookupError: the seed has no marker.
    """
    if len(data) > _LARGEST or read_labels(data).volume_id != VOLUME_ID:
        raise ValueError("not a NoCloud seed")
    return read_files(data)[MARKER]


__all__ = ["VOLUME_ID", "Seed", "SeedMount", "cloud_files", "read_seed", "seed_bytes"]
