# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A NoCloud seed that makes cloud-init mount a guest's virtiofs tags: a small ISO 9660 image.

cloud-init's ``mounts`` runs once per instance, and a new instance id makes it run everything once more: host keys of
ssh, package sources, the default user. So the instance id is the domain's and stays, and a ``bootcmd``, which runs at
every boot before ``mounts``, forgets that ``mounts`` has run. Then a changed seed is applied at the next boot, and
nothing else is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Sequence

from .._core.command import run
from .._core.directory import open_file_at, opened_parent
from .._core.errors import CommandFailed, Conflict, InvalidInput, from_os_error
from .._core.plain import from_plain, to_plain
from .._core.records import dataclass
from .._host.mount.virtiofs import VIRTIOFS_OPTIONS
from .._model.mount_names import check_mount_point, check_mount_tag

#: By this volume id cloud-init finds a NoCloud seed.
VOLUME_ID = "cidata"
#: The file that says that a seed is ours, and what is in it.
MARKER = "granary"
#: Raised when the same mounts lead to other files, so that seeds of an older version are written anew.
FORMAT = 1

#: ECMA-119: logical sectors of 2048 bytes, the primary volume descriptor in the 17th.
_SECTOR = 2048
_DESCRIPTOR = 16 * _SECTOR
#: A seed has some 400 KiB; a larger image isn't one of ours and needn't be read.
_LARGEST = 4 * 1024 * 1024
_INSTANCE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
#: Names that cloud-init takes for block devices, or looks up in its metadata (cloudinit/config/cc_mounts.py).
_DEVICE_NAME = r"x?[shv]d[a-z][0-9]*|sr[0-9]+|ami|root|swap|ephemeral.*|ebs.*"


@dataclass(frozen=True)
class SeedMount:
    """A virtiofs mount; ``options`` are more words for fstab, parted by commas."""

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
    """The seed in the file ``path``; ``None`` when there is no file.

    :raises Conflict: it isn't a seed that this collection wrote; :raises PathNotAllowed: another user's link leads
        elsewhere.
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
        ):  # a directory, a FIFO; a link put there right now; a socket
            raise _not_ours(path) from error
        raise from_os_error(error, f"read {path}") from error
    try:
        return _parse_marker(_file(data, MARKER))
    except (ArithmeticError, InvalidInput, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _not_ours(path) from error


def _not_ours(path: str) -> Conflict:
    return Conflict(
        f"The file {path} is not a seed that this collection wrote; it is left alone, so remove it or name another "
        "file."
    )


def seed_bytes(instance_id: str, mounts: Sequence[SeedMount]) -> bytes:
    """The ISO 9660 image; the same for the same input and the same xorriso.

    :arg instance_id: the domain's uuid.
    :raises InvalidInput: a tag or a mount point that cloud-init can't carry.
    :raises CommandFailed: xorriso isn't installed, or failed.
    """
    files = _contents(Seed(instance_id, tuple(mounts)))
    try:
        with tempfile.TemporaryDirectory(prefix="vmstore-seed-") as scratch:
            tree = os.path.join(scratch, "tree")
            os.mkdir(tree)
            for name, text in files.items():
                with open(os.path.join(tree, name), "w", encoding="utf-8") as file:
                    file.write(text)
                os.utime(file.name, (0, 0))
            os.utime(tree, (0, 0))
            image = os.path.join(scratch, "image")
            _make_image(tree, image)
            with open(image, "rb") as made:
                return made.read()
    except OSError as error:
        raise from_os_error(error, "make a NoCloud seed in the directory for temporary files") from error


def _contents(seed: Seed) -> dict[str, str]:
    """The seed's files. Their YAML is JSON, which is YAML too."""
    if re.fullmatch(_INSTANCE_ID, seed.instance_id) is None:
        raise InvalidInput("instance_id", seed.instance_id, "a domain's uuid is expected")
    lines = [_fstab_fields(mount) for mount in seed.mounts]
    points = [line[1] for line in lines]
    for point in points:
        if points.count(point) > 1:
            raise InvalidInput("mount_point", point, "one mount a mount point is expected")
    user_data: dict[str, object] = {
        "bootcmd": [
            ["rm", "-f", "/var/lib/cloud/instance/sem/config_mounts"],
            # cc_mounts takes its old lines away by itself, but only where it has a new one.
            ["sed", "-i", r"/[[:blank:]]virtiofs[[:blank:]].*comment=cloudconfig/d", "/etc/fstab"],
        ],
    }
    if lines:  # cloud-init warns of an empty list
        user_data["mounts"] = lines
    return {
        "meta-data": _json({"instance-id": seed.instance_id}),
        "user-data": "#cloud-config\n" + _json(user_data),
        MARKER: _json(to_plain(seed)),
    }


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


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _make_image(tree: str, image: str) -> None:
    argv = ["xorriso", "-no_rc", "-as", "mkisofs", "-quiet", "-volid", VOLUME_ID, "-joliet", "-rational-rock"]
    # Not the time of day, neither of the volume nor of the files.
    argv += ["--modification-date=1970010100000000", "--set_all_file_dates", "set_to_mtime", "-output", image, tree]
    try:
        run(argv)
    except CommandFailed as error:
        if "is not installed" in str(error):
            raise CommandFailed(
                "A NoCloud seed is made with xorriso, which is not installed on this host: install the package xorriso."
            ) from error
        raise


def _parse_marker(data: bytes) -> Seed:
    """Read the seed that ``_contents`` wrote.

    :raises ArithmeticError, InvalidInput, LookupError, RecursionError, TypeError, ValueError: it is something else.
    """
    seed = from_plain(Seed, json.loads(data.decode("utf-8")))
    _contents(seed)  # what it refuses to write, it never wrote
    return seed


def _file(data: bytes, wanted: str) -> bytes:
    """The file ``wanted`` in the root directory of an ISO 9660 image; names are the plain (ECMA-119) ones, in lower
    case.

    :raises ValueError: it isn't such an image with our volume id; :raises LookupError: it has no such file.
    """
    descriptor = data[_DESCRIPTOR : _DESCRIPTOR + _SECTOR]
    if (
        len(data) > _LARGEST
        or descriptor[:7] != b"\x01CD001\x01"
        or descriptor[40:72].rstrip(b" ") != VOLUME_ID.encode()
    ):
        raise ValueError("not a NoCloud seed")
    directory = _extent(data, descriptor[156:190])
    place = 0
    while place < len(directory):
        length = directory[place]
        if length < 34:  # the rest of a sector is zeros
            place = (place // _SECTOR + 1) * _SECTOR
            continue
        record = directory[place : place + length]
        name = record[33 : 33 + record[32]].partition(b";")[0].rstrip(b".").decode("ascii", "replace").lower()
        if name == wanted:
            return _extent(data, record)
        place += length
    raise LookupError(wanted)


def _extent(data: bytes, record: bytes) -> bytes:
    """Return what a directory record points to (ECMA-119, 9.1): first sector at byte 2, length at byte 10, both 32
    bits, little-endian first.
    """
    start = int.from_bytes(record[2:6], "little") * _SECTOR
    return data[start : start + int.from_bytes(record[10:14], "little")]


__all__ = ["Seed", "SeedMount", "read_seed", "seed_bytes"]
