# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container images in a registry, by OCI's distribution specification."""

from __future__ import annotations

from collections.abc import Callable, Generator

from ..._core.errors import TransferFailed
from ..download import download
from ..http.document import TIMEOUT, Document, fetch_document
from ..source import Source
from .authorization import Authorization, Credentials
from .manifest import DOCUMENT_TYPES, MOST_BYTES, Blob, Index, Manifest, find_manifest, parse_document
from .origin import Origin, digest_of, verify
from .reference import RegistryImage, is_digest


class Registry(Origin):
    """An image in a registry.

    :arg insecure: whether to use http. A registry on a loopback address always uses http, unless ``ca`` is given.
    :arg ca: see :class:`Source`.
    :arg log: is called with lines of progress, without secrets.
    """

    def __init__(
        self,
        image: RegistryImage,
        *,
        credentials: Credentials | None = None,
        insecure: bool = False,
        ca: str | None = None,
        log: Callable[[str], object] = str,
    ) -> None:
        self._image = image
        self.name = image.name
        self._ca = ca
        self._log = log
        scheme = "http" if insecure or (image.is_on_this_host and ca is None) else "https"
        self._url = f"{scheme}://{image.host}"
        self._authorization = Authorization(self._url, image.repository, credentials, ca)

    def read_digest(self) -> str:
        """Return the digest of the manifest or the index.

        :raises TransferFailed: the registry can't be reached, or has no such image.
        """
        if self._image.digest is not None:
            return self._image.digest
        found = self._request(self._image.version, "HEAD").headers.get("docker-content-digest")
        # The header is optional, and so is the method for some registries.
        return (
            found if found is not None and is_digest(found) else digest_of(self._request(self._image.version).content)
        )

    def read_manifest(self, digest: str, architecture: str) -> Manifest:
        return find_manifest(self._read_document(digest), architecture, self.name, self._read_blob_document)

    def read_blob(self, blob: Blob) -> Generator[bytes, None, None]:
        source = Source(self._blob_url(blob.digest), headers=self._authorization, ca=self._ca)
        return verify(download(source, TIMEOUT, self._log, blob.size), blob, self.name)

    def _read_blob_document(self, blob: Blob) -> Manifest | Index:
        return self._read_document(blob.digest)

    def _read_document(self, digest: str) -> Manifest | Index:
        response = self._request(digest)
        content = b"".join(verify([response.content], Blob(digest, len(response.content), ""), self.name))
        return parse_document(content, response.headers.get("content-type", "").partition(";")[0].strip(), self.name)

    def _request(self, version: str, method: str = "GET") -> Document:
        """Return the document with a tag or a digest."""
        source = Source(f"{self._repository_url}/manifests/{version}", headers=self._authorization, ca=self._ca)
        response = Document(401, {})
        for _attempt in range(2):
            response = fetch_document(source, {"Accept": ", ".join(DOCUMENT_TYPES)}, most=MOST_BYTES, method=method)
            if response.status != 401 or not self._authorization.answer(response.headers.get("www-authenticate", "")):
                break
        if response.status == 200 or (method, response.status) == ("HEAD", 405):
            return response
        why = f"the registry returned {response.status}"
        if response.status in (401, 403):
            has_user = self._authorization.credentials is not None
            why += f", and {'the user or the password is wrong' if has_user else 'it requires a pull secret'}"
            why += ", or the user may not read the image"
        elif response.status == 404:
            why += ", because it has no such image"
        raise TransferFailed(f"Could not read {self.name}: {why}.")

    @property
    def _repository_url(self) -> str:
        return f"{self._url}/v2/{self._image.repository}"

    def _blob_url(self, digest: str) -> str:
        return f"{self._repository_url}/blobs/{digest}"


__all__ = ["Registry"]
