# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container images in files of this host: OCI's image layout, and the archives of ``docker save``."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ..._core.errors import InvalidInput, TransferFailed
from .local_files import ArchiveFiles, DirectoryFiles, LocalFiles
from .manifest import (
    MOST_BYTES,
    MOST_LAYERS,
    OCI_INDEX,
    Blob,
    Index,
    Manifest,
    find_manifest,
    parse_document,
    parse_json,
)
from .origin import Origin, digest_of, verify
from .reference import LocalImage, is_digest, parse_reference

#: The file of a layout that lists the images, and the file of an archive of ``docker save`` that does the same.
_INDEX, _SAVED = "index.json", "manifest.json"
#: Type of the layers in an archive of ``docker save``.
_SAVED_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def open_local(image: LocalImage) -> Origin:
    """Return the origin of an image in files.

    :raises InvalidInput, TransferFailed, FileAccessFailed: the files can't be read.
    """
    if image.transport == "docker-archive":
        return SavedImage(image)
    return OciLayout(image)


class OciLayout(Origin):
    """An image in OCI's image layout, in a directory or in an archive."""

    def __init__(self, image: LocalImage) -> None:
        self.name = image.name
        self._tag = image.tag
        self._files: LocalFiles = (DirectoryFiles if image.transport == "oci" else ArchiveFiles)(image.path)

    def read_digest(self) -> str:
        content, listed = self._images
        return listed[0].digest if len(listed) == 1 else digest_of(content)

    def read_manifest(self, digest: str, architecture: str) -> Manifest:
        _content, listed = self._images
        document = self._read_document(listed[0]) if len(listed) == 1 else Index(listed)
        return find_manifest(document, architecture, self.name, self._read_document)

    def read_blob(self, blob: Blob) -> Generator[bytes, None, None]:
        return verify(self._files.chunks("blobs/" + blob.digest.replace(":", "/")), blob, self.name)

    @functools.cached_property
    def _images(self) -> tuple[bytes, Sequence[Blob]]:
        """Return the content of the list, and the images with the tag, which are for different platforms."""
        content = self._files.read(_INDEX)
        index = parse_document(content, OCI_INDEX, self.name)
        listed = index.manifests if isinstance(index, Index) else []
        found = [one for one in listed if self._tag in ("", one.tag)]
        tags = sorted({one.tag or "" for one in found})
        if not found or len(tags) > 1:
            raise _not_one(self.name, [one.tag for one in listed if one.tag])
        return content, found

    def _read_document(self, blob: Blob) -> Manifest | Index:
        if blob.size > MOST_BYTES:
            raise TransferFailed(f"Could not read {self.name}: {blob.digest} has more than {MOST_BYTES} bytes.")
        return parse_document(b"".join(self.read_blob(blob)), blob.media_type, self.name)


class SavedImage(Origin):
    """An image in an archive of ``docker save``. Its digest is that of its configuration, Docker's id of an image."""

    def __init__(self, image: LocalImage) -> None:
        self.name = image.name
        self._tag = image.tag
        self._files = ArchiveFiles(image.path)
        #: The names of the layers in the archive by digest.
        self._names: dict[str, str] = {}

    def read_digest(self) -> str:
        return digest_of(self._files.read(str(self._image.get("Config"))))

    def read_manifest(self, digest: str, architecture: str) -> Manifest:
        content = self._files.read(str(self._image.get("Config")))
        configuration = parse_json(content, self.name)
        tree = configuration.get("rootfs") if isinstance(configuration, Mapping) else None
        digests = _list(tree.get("diff_ids") if isinstance(tree, Mapping) else None)
        names = _list(self._image.get("Layers"))
        is_paired = 0 < len(digests) == len(names) <= MOST_LAYERS
        if digest_of(content) != digest or not is_paired or not all(map(is_digest, digests)):
            raise TransferFailed(f"Could not read {self.name}: its configuration lacks the digests of its layers.")
        self._names = dict(zip(digests, map(str, names)))
        return Manifest([Blob(one, self._files.size(name), _SAVED_LAYER) for one, name in self._names.items()])

    def read_blob(self, blob: Blob) -> Generator[bytes, None, None]:
        return verify(self._files.chunks(self._names[blob.digest]), blob, self.name)

    @functools.cached_property
    def _image(self) -> Mapping[str, object]:
        """Return the description of the image."""
        data = parse_json(self._files.read(_SAVED), self.name)
        listed = [one for one in _list(data) if isinstance(one, Mapping)]
        found = [one for one in listed if not self._tag or _full_name(self._tag) in map(_full_name, _tags(one))]
        if len(found) != 1:
            raise _not_one(self.name, [tag for one in listed for tag in _tags(one)])
        return found[0]


def _tags(described: Mapping[str, object]) -> list[str]:
    return [str(one) for one in _list(described.get("RepoTags"))]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _full_name(tag: str) -> str:
    try:
        return parse_reference(tag).name
    except InvalidInput:
        return tag


def _not_one(name: str, tags: Sequence[str]) -> InvalidInput:
    listed = ", ".join(tags)[:200]
    return InvalidInput(
        "image",
        name,
        f"a name is expected behind the path and a colon, one of those in the file: {listed or 'it has none'}",
    )


__all__ = ["OciLayout", "SavedImage", "open_local"]
