# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checksums of the source of an image, and of the image's data."""

from __future__ import annotations

from ..._core.chunks import read_chunks
from ..._core.digits import is_hexadecimal
from ..._core.errors import InvalidInput, os_errors
from ..._core.records import TYPE_CHECKING
from ..._image.checksum import DIGEST_LENGTHS

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class Digests:
    """The digests of the bytes of a source and of the stored data, by algorithm. The two differ only if the source is
    decompressed.

    :arg checksums: the expected hexadecimal digests by algorithm. An empty mapping computes nothing.
    :raises InvalidInput: a checksum of another length than its algorithm's, or an algorithm that isn't supported.
    """

    def __init__(self, checksums: Mapping[str, str]) -> None:
        self._checksums = checksums
        self._came = self._stored = _new_digests(checksums)

    @property
    def of_source(self) -> Sequence[hashlib._Hash]:
        """The digests of the bytes of the source."""
        return list(self._came.values())

    def separate_stored(self) -> Sequence[hashlib._Hash]:
        """Return separate digests for the stored data, because the source is decompressed."""
        self._stored = _new_digests(self._checksums)
        return list(self._stored.values())

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield ``chunks`` of the source, and add each chunk to the digests."""
        for chunk in chunks:
            for digest in self._came.values():
                digest.update(chunk)
            yield chunk

    def verify(self, name: str) -> None:
        """Compare the digests of the source with the expected ones.

        :arg name: the source, for messages.
        :raises InvalidInput: a digest differs from the expected digest.
        """
        for algorithm, expected in self._checksums.items():
            found = self._came[algorithm].hexdigest()
            if found != expected.lower():
                raise InvalidInput(algorithm, expected, f"the {algorithm} of what is at {name} is {found}")

    def of_stored(self) -> str | None:
        """Return the checksum of the stored data, or ``None`` if no digests are expected."""
        return next((f"{name}:{digest.hexdigest()}" for name, digest in self._stored.items()), None)

    def of_file(self, descriptor: int, name: str) -> Digests:
        """Return the digests of an open file by the same algorithms. Without algorithms, don't read the file.

        :arg name: the file, for messages.
        :raises VmstoreError: the file can't be read.
        """
        digests = Digests(self._checksums)
        if self._checksums:
            with os_errors(f"read {name}"):
                for _chunk in digests.count(read_chunks(descriptor)):
                    pass
        return digests


def _new_digests(checksums: Mapping[str, str]) -> dict[str, hashlib._Hash]:
    for name, expected in checksums.items():
        if name not in DIGEST_LENGTHS:
            raise InvalidInput("checksum", name, f"one of {', '.join(DIGEST_LENGTHS)} is expected")
        if not is_hexadecimal(expected.lower(), DIGEST_LENGTHS[name]):
            raise InvalidInput(name, expected, f"{DIGEST_LENGTHS[name]} hexadecimal digits are expected")
    if not checksums:
        return {}
    import hashlib

    # A published checksum protects against damage, so MD5 is also allowed where a policy forbids it for secrets.
    return {name: hashlib.new(name, usedforsecurity=False) for name in checksums}


__all__ = ["Digests"]
