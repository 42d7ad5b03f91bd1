# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The origin of a container image: a registry, or files of this host."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable

from ..._core.errors import TransferFailed
from .manifest import Blob, Manifest


class Origin:
    """The origin of one image.

    :ivar name: the image, for messages.
    """

    name: str

    def read_digest(self) -> str:
        """Return the digest of the image, which changes with each other image of the same name.

        :raises TransferFailed: the origin can't be read, or has no such image.
        """
        raise NotImplementedError

    def read_manifest(self, digest: str, architecture: str) -> Manifest:
        """Return the manifest of the image for an architecture.

        :arg digest: a result of :meth:`read_digest`.
        :raises InvalidInput: the image isn't there for the architecture.
        :raises TransferFailed: the origin can't be read, or its documents are invalid.
        """
        raise NotImplementedError

    def read_blob(self, blob: Blob) -> Generator[bytes, None, None]:
        """Yield the bytes of a layer. The digest is verified at the end.

        :raises TransferFailed: the bytes can't be read, or have another digest.
        """
        raise NotImplementedError


def digest_of(content: bytes) -> str:
    """Return the digest of a document."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def verify(chunks: Iterable[bytes], blob: Blob, name: str) -> Generator[bytes, None, None]:
    """Yield the bytes of a blob, and compare their number and their digest at the end.

    :arg name: the image, for messages.
    :raises TransferFailed: the bytes aren't those of the blob.
    """
    algorithm, _colon, expected = blob.digest.partition(":")
    digest = hashlib.new(algorithm)
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > blob.size:
            break
        digest.update(chunk)
        yield chunk
    if total != blob.size:
        raise TransferFailed(
            f"Could not read {name}: {blob.digest} has {blob.size} bytes, and {total} bytes or more came."
        )
    if digest.hexdigest() != expected:
        raise TransferFailed(
            f"Could not read {name}: {blob.digest} is expected, and the {algorithm} of the received bytes is "
            f"{digest.hexdigest()}."
        )


__all__ = ["Origin", "digest_of", "verify"]
