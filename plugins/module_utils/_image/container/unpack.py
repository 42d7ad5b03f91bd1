# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disk of a container image: read from the layers as streams, written to a new file, and checked.

The layers are hostile. Bytes, entries, memory and CPU time have limits, and nothing but the disk is ever written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator

from ..._core.errors import InvalidInput, os_errors
from ..._core.records import dataclass
from ..checked_image import check_image
from ..copy import write_stream
from ..decompress import decompress
from ..magic import ENOUGH, sniff
from ..new_image import NewImage
from ..room import capacity, room
from .byte_stream import ByteStream
from .disk_search import DiskSearch
from .manifest import Blob, Manifest
from .origin import Origin
from .read_ahead import read_ahead
from .tar import BadArchive, TarEntry, read_entries

#: Upper bound of the entries of all layers. The image of a whole distribution has 100,000.
MOST_ENTRIES = 1_000_000
#: Upper bound of the length of a disk in bytes, because even holes take CPU time: 1 TiB takes 12 minutes.
MOST_DISK = 1 << 40
#: Upper bound of the bytes beside the disk in all layers.
MOST_BESIDE = 64 << 30

#: Kinds of files (:func:`sniff`) that are disks.
_KINDS = ("raw", "iso", "qcow2")


@dataclass(frozen=True)
class UnpackedDisk:
    """The disk of an image in a new file.

    :arg name: the path of the disk in the image.
    :arg checksum: the sha256 of the file in hexadecimal digits.
    :arg format: qemu's name of the format, ``raw`` or ``qcow2``.
    :arg virtual_size: size of the disk in bytes.
    """

    name: str
    checksum: str
    format: str
    virtual_size: int


def unpack_disk(origin: Origin, manifest: Manifest, path: str | None, part: NewImage) -> UnpackedDisk:
    """Write the disk of an image to the empty file ``part``, and check the disk.

    :arg path: the path of the disk in the image. Without a path, it is the only file in ``/disk``.
    :raises InvalidInput: the image has no disk or several ones, a layer is damaged or hostile, or the disk isn't a
        sound raw or qcow2 image that stands alone.
    :raises TransferFailed: the layers can't be read.
    :raises NoSpace, FileAccessFailed: the disk can't be written.
    :raises CommandFailed: a program such as zstd(1) or qemu-img(1) is missing or failed.
    """
    unpacking = _Unpacking(origin, path, part)
    for layer in reversed(manifest.layers):
        unpacking.read_layer(layer)
        if unpacking.search.is_over:
            break
    name = unpacking.search.found
    image_format, virtual_size = _check_disk(part, f"{name} of {origin.name}")
    return UnpackedDisk(name, unpacking.checksum, image_format, virtual_size)


class _Unpacking:
    """The state while the layers are read.

    :ivar checksum: the sha256 of the disk.
    """

    def __init__(self, origin: Origin, path: str | None, part: NewImage) -> None:
        self.search = DiskSearch(path, origin.name)
        self.checksum = ""
        self._origin = origin
        self._part = part
        with os_errors(f"look at the file system of {part.place}"):
            self._largest, self._room = min(capacity(part.fd), MOST_DISK), room(part.fd)
        #: The rest of the limits: bytes beside the disk, and entries.
        self._beside, self._entries = MOST_BESIDE, MOST_ENTRIES

    def read_layer(self, layer: Blob) -> None:
        """Read a layer to its end, so that its digest is verified."""
        with contextlib.closing(read_ahead(self._origin.read_blob(layer))) as chunks:
            try:
                self._read_archive(layer, self._decompress(layer, chunks))
            except BadArchive as error:
                raise self._refused(layer, f"a whole tar archive is expected, and {error}") from error
            for _chunk in chunks:  # what a decoder doesn't read belongs to the digest, too
                pass
        self.search.end_layer()

    def _decompress(self, layer: Blob, chunks: Iterator[bytes]) -> Iterator[bytes]:
        limit = self._largest + MOST_BESIDE
        try:
            yield from decompress(chunks, limit=limit, path=f"/{layer.digest}", require_image=_accept_all)
        except InvalidInput as error:
            raise self._refused(layer, error.accepted) from error

    def _read_archive(self, layer: Blob, chunks: Iterable[bytes]) -> None:
        stream = ByteStream(chunks)
        written = 0
        for entry in read_entries(stream, most=self._entries):
            self._entries -= 1
            if self.search.is_disk(entry):
                begin = stream.position
                self._write(entry, stream, layer)
                written = stream.position - begin
            elif stream.position + entry.stored - written > self._beside:
                raise self._too_much(layer)
        if not stream.drain(max(0, self._beside + written - stream.position)):
            raise self._too_much(layer)
        self._beside -= stream.position - written

    def _write(self, entry: TarEntry, stream: ByteStream, layer: Blob) -> None:
        if entry.size > self._largest:
            raise self._refused(layer, f"a disk of at most {self._largest} bytes is expected")
        digest = hashlib.sha256()
        write_stream(entry.read(stream), self._part.fd, digests=[digest], limit=self._room, path=self._origin.name)
        self.checksum = digest.hexdigest()

    def _too_much(self, layer: Blob) -> InvalidInput:
        return self._refused(layer, f"at most {MOST_BESIDE} bytes beside the disk are expected")

    def _refused(self, layer: Blob, accepted: str) -> InvalidInput:
        return InvalidInput("image", self._origin.name, f"{accepted} (layer {layer.digest})")


def _accept_all(_kind: str) -> None:
    """Accept a layer of any kind, because the reader of the archive refuses everything else."""


def _check_disk(part: NewImage, path: str) -> tuple[str, int]:
    """Return the format and the virtual size of a disk.

    :arg path: the disk, for messages.
    """
    with os_errors(f"read {path}"):
        kind = sniff(os.pread(part.fd, ENOUGH, 0))
    if kind not in _KINDS:
        raise InvalidInput("image", path, f"a raw or qcow2 disk is expected, and this is {kind}")
    found, _warnings = check_image(part.fd, path=path, option="image")
    if not found.virtual_size:
        raise InvalidInput("image", path, "a raw or qcow2 disk is expected, and this one is empty")
    return found.format, found.virtual_size


__all__ = ["UnpackedDisk", "unpack_disk"]
