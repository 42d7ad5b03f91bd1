# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""References to container images in a registry, in an OCI directory or in an archive.

A reference is untrusted input. Its parts become parts of URLs, so each of them matches a strict pattern.
"""

from __future__ import annotations

import re

from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.records import dataclass

#: The registry of names without a registry, and the host that serves this registry.
DEFAULT_REGISTRY, DEFAULT_HOST = "docker.io", "registry-1.docker.io"
#: The tag of names without a tag and without a digest.
DEFAULT_TAG = "latest"

#: Transports of images that are files of this host. The names are those of skopeo(1).
LOCAL_TRANSPORTS = ("oci", "oci-archive", "docker-archive")

#: Upper bound of a name with its registry in characters, as in the grammar of references (distribution/reference).
_LONGEST_NAME = 255

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")

_ACCEPTED = (
    "[registry[:port]/]name[:tag][@digest] is expected, such as quay.io/containerdisks/fedora:latest, with a name in "
    "lower case; or one of oci:, oci-archive: and docker-archive: before an absolute path"
)


@dataclass(frozen=True)
class RegistryImage:
    """An image in a registry.

    :arg registry: the host of the registry with its port, as written in names of images.
    :arg repository: the name of the image in the registry.
    :arg digest: the digest of the manifest or the index. It has priority over the tag.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Return the full name, by which the cache finds the image."""
        version = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.registry}/{self.repository}{version}"

    @property
    def is_moving(self) -> bool:
        """Return whether the name usually stands for another image later."""
        return self.digest is None and self.tag == DEFAULT_TAG

    @property
    def version(self) -> str:
        """Return the tag or the digest for the URL of the manifest."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def host(self) -> str:
        """Return the host of the registry's API, with its port."""
        return DEFAULT_HOST if self.registry == DEFAULT_REGISTRY else self.registry

    @property
    def is_on_this_host(self) -> bool:
        """Return whether the registry has a loopback address, which only this host reaches."""
        host = re.sub(":[0-9]+$", "", self.registry)
        return host in ("localhost", "[::1]") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


@dataclass(frozen=True)
class LocalImage:
    """An image in files of this host.

    :arg transport: one of :data:`LOCAL_TRANSPORTS`.
    :arg path: the absolute path of the directory or of the archive.
    :arg tag: the name of one of several images there, or an empty text.
    """

    transport: str
    path: str
    tag: str = ""

    #: Files can change at any time.
    is_moving = True
    #: Files have no other digest than that of their content.
    digest = None

    @property
    def name(self) -> str:
        """Return the full name, by which the cache finds the image."""
        return f"{self.transport}:{self.path}{f':{self.tag}' if self.tag else ''}"


def parse_reference(text: str, option: str = "image") -> RegistryImage | LocalImage:
    """Return the reference to an image in a text.

    :arg option: the option for errors.
    :raises InvalidInput: the text isn't a reference.
    """
    transport, colon, rest = text.partition(":")
    if colon and transport in LOCAL_TRANSPORTS:
        path, _colon, tag = rest.partition(":")
        if tag and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]{0,255}", tag):
            raise InvalidInput(option, text, "a name of letters, digits and ._-/:@ is expected behind the path")
        return LocalImage(transport, absolute(option, path), tag)
    found = _parse_name(text.removeprefix("docker://"))
    if found is None:
        raise InvalidInput(option, text, _ACCEPTED)
    return found


def _parse_name(text: str) -> RegistryImage | None:
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        return None
    start, slash, rest = name.partition("/")
    if not slash or not (re.search("[.:A-Z]", start) or start == "localhost"):
        start, rest = DEFAULT_REGISTRY, name
    repository, colon, tag = rest.partition(":")
    if start in (DEFAULT_REGISTRY, f"index.{DEFAULT_REGISTRY}"):
        start, repository = DEFAULT_REGISTRY, repository if "/" in repository else f"library/{repository}"
    if not (_is_registry(start) and _REPOSITORY.fullmatch(repository) and (not colon or _TAG.fullmatch(tag))):
        return None
    if len(start) + 1 + len(repository) > _LONGEST_NAME:
        return None
    return RegistryImage(start, repository, tag or (None if at else DEFAULT_TAG), digest or None)


def _is_registry(text: str) -> bool:
    found = _REGISTRY.fullmatch(text)
    return found is not None and (found[1] is None or 0 < int(found[1]) < 1 << 16)


def is_digest(value: object) -> bool:
    """Return whether a value is a digest by one of the supported algorithms."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


__all__ = [
    "DEFAULT_REGISTRY",
    "LOCAL_TRANSPORTS",
    "LocalImage",
    "RegistryImage",
    "is_digest",
    "parse_reference",
]
