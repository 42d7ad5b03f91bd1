# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests and indexes of container images, by OCI's image specification and Docker's image manifest version 2,
schema 2.

The documents are untrusted input.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._core.errors import InvalidInput, TransferFailed, printable
from ..._core.records import dataclass, field
from .reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

#: Media types of documents, for the header Accept.
DOCUMENT_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)

#: Media types of layers. Their compression is detected from the content.
LAYER_TYPES = tuple(
    f"{kind}{compression}"
    for kind in ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
    for compression in ("", "+gzip", ".gzip", "+zstd", ".zstd")
)

#: Upper bound of a document in bytes, as in the distribution specification.
MOST_BYTES = 4 << 20
#: Upper bound of the layers of an image, as in Docker.
MOST_LAYERS = 128
#: Upper bound of indexes inside indexes.
DEEPEST = 4
#: Upper bound of the digits of a number, because the conversion of long numbers takes quadratic time.
_MOST_DIGITS = 20

#: Names of architectures in images, by the names in the kernel.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True)
class Blob:
    """A descriptor of a document or a layer.

    :arg size: bytes.
    :arg platform: the operating system and the architecture, of a document in an index.
    """

    digest: str
    size: int
    media_type: str
    platform: tuple[str, str] | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The layers of an image, the lowest first."""

    layers: Sequence[Blob]

    @property
    def digests(self) -> tuple[str, ...]:
        """Return the digests of the layers."""
        return tuple(layer.digest for layer in self.layers)


@dataclass(frozen=True)
class Index:
    """The images for several platforms."""

    manifests: Sequence[Blob] = field(default_factory=tuple)


def host_architecture() -> str:
    """Return the architecture of this host, as images name it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def parse_json(content: bytes, name: str) -> Any:
    """Return the content of a JSON document.

    :raises TransferFailed: the content is too long, or no JSON.
    """
    try:
        if len(content) > MOST_BYTES:
            raise ValueError
        return json.loads(content, parse_int=_parse_integer)
    except (ValueError, RecursionError) as error:
        raise TransferFailed(
            f"Could not read {name}: a JSON document of at most {MOST_BYTES} bytes is expected."
        ) from error


def _parse_integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError
    return int(digits)


def parse_document(content: bytes, media_type: str, name: str) -> Manifest | Index:
    """Return a manifest or an index.

    :arg media_type: the type by the sender's account. The type in the document has priority.
    :arg name: the image, for messages.
    :raises TransferFailed: the document is invalid, or of another type.
    """
    found = parse_json(content, name)
    data = found if isinstance(found, Mapping) else {}
    media_type = str(data.get("mediaType") or media_type)
    if media_type in (OCI_INDEX, DOCKER_INDEX) and isinstance(data.get("manifests"), list):
        return Index([_parse_blob(one, name) for one in data["manifests"]])
    if media_type in (OCI_MANIFEST, DOCKER_MANIFEST) and isinstance(data.get("layers"), list):
        return _parse_manifest(data["layers"], name)
    raise TransferFailed(
        f"Could not read {name}: a manifest of an image by OCI or by Docker's schema 2 is expected, and this document "
        f"is of the type {printable(media_type)[:100]!r}."
    )


def _parse_manifest(listed: Sequence[object], name: str) -> Manifest:
    layers = [_parse_blob(one, name) for one in listed]
    if not 1 <= len(layers) <= MOST_LAYERS:
        raise TransferFailed(f"Could not read {name}: an image with 1 to {MOST_LAYERS} layers is expected.")
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise TransferFailed(
                f"Could not read {name}: layers that are tar archives are expected, and {layer.digest} is of the type "
                f"{printable(layer.media_type)[:100]!r}."
            )
    return Manifest(layers)


def _parse_blob(data: object, name: str) -> Blob:
    found: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    digest, size, kind = found.get("digest"), found.get("size"), found.get("mediaType")
    if not is_digest(digest) or not isinstance(size, int) or not 0 <= size < 1 << 62 or not isinstance(kind, str):
        raise TransferFailed(
            f"Could not read {name}: each part of an image needs a digest by sha256 or sha512, a size and a type."
        )
    platform, notes = found.get("platform"), found.get("annotations")
    system = (str(platform.get("os")), str(platform.get("architecture"))) if isinstance(platform, Mapping) else None
    tag = notes.get("org.opencontainers.image.ref.name") if isinstance(notes, Mapping) else None
    return Blob(str(digest), size, kind, system, str(tag) if tag is not None else None)


def choose_platform(index: Index, architecture: str, name: str) -> Blob:
    """Return the image for an architecture, or the only image of an index.

    :raises InvalidInput: the index has no such image.
    """
    for one in index.manifests:
        if one.platform == ("linux", architecture):
            return one
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    known = sorted({one.platform[1] for one in index.manifests if one.platform and one.platform[0] == "linux"})
    raise InvalidInput(
        "architecture",
        architecture,
        f"an architecture is expected that {name} has: {printable(', '.join(known))[:200] or 'it has none'}",
    )


def find_manifest(
    document: Manifest | Index, architecture: str, name: str, fetch: Callable[[Blob], Manifest | Index]
) -> Manifest:
    """Return the manifest of the image for an architecture.

    :arg fetch: returns a document that an index names.
    :raises InvalidInput: the image isn't there for the architecture.
    :raises TransferFailed: a document is invalid.
    """
    for _level in range(DEEPEST):
        if isinstance(document, Manifest):
            return document
        document = fetch(choose_platform(document, architecture, name))
    if isinstance(document, Manifest):
        return document
    raise TransferFailed(f"Could not read {name}: at most {DEEPEST} indexes inside each other are expected.")


__all__ = [
    "DOCUMENT_TYPES",
    "MOST_BYTES",
    "MOST_LAYERS",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Blob",
    "Index",
    "Manifest",
    "choose_platform",
    "find_manifest",
    "host_architecture",
    "parse_document",
    "parse_json",
]
