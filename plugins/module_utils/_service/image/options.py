# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired state of one image: the options, checked one by one, before any access to the catalog or a datastore."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.records import dataclass, field
from ..._core.units import read_size
from ..._image.checksum import read_checksum, split_list
from ..._image.source import Source
from ..._model.idmap import ID_MAP_OPTION, read_id_maps
from ..._model.mount_names import check_mount_point, check_mount_tag
from ..._model.names import check_name
from .saved_disk import FROM_DISK_OPTIONS, SourceDisk, read_source_disk
from .url_access import read_headers, server_of

#: Options of one image.
IMAGE_OPTIONS: dict[str, dict[str, Any]] = {
    "id": {"type": "int"},
    "name": {"type": "str"},
    "datastore": {"type": "str"},
    "type": {"type": "str", "choices": ["os", "cdrom", "datablock", "kernel", "ramdisk", "context", "filesystem"]},
    "path": {"type": "str"},
    "url": {"type": "str"},
    "checksum": {"type": "str"},
    "headers": {"type": "dict"},
    "ca_path": {"type": "path"},
    "clone_from": {"type": "str"},
    "from_disk": {"type": "dict", "options": FROM_DISK_OPTIONS},
    "size": {"type": "str"},
    "format": {"type": "str", "choices": ["raw", "qcow2"]},
    "fs": {"type": "str"},
    "driver": {"type": "str", "choices": ["raw", "qcow2"]},
    "sparse": {"type": "bool"},
    "verify": {"type": "bool"},
    "persistent": {"type": "bool"},
    "read_only": {"type": "bool"},
    "mount_point": {"type": "str"},
    "mount_tag": {"type": "str"},
    "uid_map": ID_MAP_OPTION,
    "gid_map": ID_MAP_OPTION,
    "remake": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}

#: Options for the data of a new image. Exactly one of them is required.
SOURCES = ("path", "url", "clone_from", "from_disk", "size")

#: Options of images that are mounted.
MOUNT_OPTIONS = ("mount_point", "mount_tag", "uid_map", "gid_map")

#: The members of :data:`SOURCES` that an option can be combined with.
BELONGS_TO = {
    "ca_path": ("path", "url"),
    "checksum": ("path", "url"),
    "driver": ("path", "url", "clone_from"),
    "format": ("size", "path", "url"),
    "fs": ("size",),
    "headers": ("path", "url"),
    "verify": ("path", "url", "clone_from"),
}


@dataclass(frozen=True)
class ChecksumList:
    """A file such as SHA256SUMS, which has the checksum of an image.

    :arg url: as given, with http or https. ``redacted`` is the URL without its secrets.
    """

    algorithm: str
    url: str = field(repr=False)
    redacted: str


@dataclass(frozen=True)
class DataSpec:
    """The desired data of an image. ``None`` is a value that isn't given.

    :arg origin: the path or URL to copy from, as given.
    :arg redacted: the origin without the secrets of a URL.
    :arg checksum_list: the list with the checksum, if the checksum itself isn't given.
    :arg format: the format of a new empty image, or the format to assume for the file at the path or URL.
    :arg headers: headers for the HTTP server. ``ca_path`` is the file with the certificates of the server's CAs.
    """

    origin: str | None = None
    redacted: str | None = None
    checksum: str | None = None
    clone_from: str | None = None
    from_disk: SourceDisk | None = None
    size: int | None = None
    format: str | None = None
    fs: str | None = None
    driver: str | None = None
    sparse: bool | None = None
    verify: bool | None = None
    checksum_list: ChecksumList | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_path: str | None = None

    def headers_for(self, url: str) -> Mapping[str, str]:
        """Return the headers for the server of ``url``.

        An image from an HTTP server has headers for that server alone. Otherwise the headers are for the server of the
        checksum.
        """
        origin = self.origin or ""
        return self.headers if not _is_http(origin) or server_of(origin) == server_of(url) else {}


@dataclass(frozen=True)
class ImageSpec:
    """The desired state of an image.

    :arg changes: the fields of the catalog's row that are given and can change.
    """

    id: int | None
    name: str | None
    datastore: str | None
    type: str | None
    data: DataSpec
    remake: bool
    force: bool
    absent: bool
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str | int:
        return self.id if self.id is not None else str(self.name)


def parse_options(options: Mapping[str, Any]) -> ImageSpec:
    """Return the desired state that ``options`` describe.

    :raises InvalidInput: a value is invalid, or two values exclude each other.
    """
    if options["id"] is None and options["name"] is None:
        raise InvalidInput("name", None, "an image needs a name, or the id of one that exists")
    if options["name"] is not None:
        check_name("name", options["name"])
    return ImageSpec(
        id=options["id"],
        name=options["name"],
        datastore=options["datastore"],
        type=options["type"],
        data=_read_data(options),
        remake=options["remake"],
        force=options["force"],
        absent=options["state"] == "absent",
        changes=_read_changes(options),
    )


def _read_changes(options: Mapping[str, Any]) -> dict[str, Any]:
    changes = {name: options[name] for name in ("persistent", "read_only") if options[name] is not None}
    for name, check in (
        ("mount_point", check_mount_point),
        ("mount_tag", check_mount_tag),
        ("uid_map", read_id_maps),
        ("gid_map", read_id_maps),
    ):
        if options[name] is not None:
            changes[name] = check(name, options[name])
    return changes


def _read_data(options: Mapping[str, Any]) -> DataSpec:
    sources = [name for name in SOURCES if options[name] is not None]
    if len(sources) > 1:
        # A URL appears in no message before its secrets are known.
        one, other = (sources[0], "url") if sources[1] == "url" else (sources[1], sources[0])
        raise InvalidInput(one, options[one], f"it doesn't go together with {other}")
    for name, owners in BELONGS_TO.items():
        if options[name] is not None and sources and sources[0] not in owners:
            raise InvalidInput(
                name, _redacted_value(name, options[name]), f"it goes with {' or '.join(owners)}, not with {sources[0]}"
            )
    origin, redacted = _read_origin(options)
    checksum, checksum_list = _read_checksum(options["checksum"])
    spec = DataSpec(
        origin=origin,
        redacted=redacted,
        checksum=checksum,
        clone_from=options["clone_from"],
        from_disk=read_source_disk(options["from_disk"]),
        size=None if options["size"] is None else read_size("size", options["size"]),
        format=options["format"],
        fs=options["fs"],
        driver=options["driver"],
        sparse=options["sparse"],
        verify=options["verify"],
        checksum_list=checksum_list,
        headers=read_headers("headers", options["headers"]),
        ca_path=None if options["ca_path"] is None else absolute("ca_path", options["ca_path"]),
    )
    _check_servers(spec, options)
    return spec


def _redacted_value(name: str, value: Any) -> object:
    return ", ".join(map(str, value)) if name == "headers" else value


def _read_checksum(text: str | None) -> tuple[str | None, ChecksumList | None]:
    if not text:
        return None, None
    found = split_list(text)
    if found is None:
        return ":".join(read_checksum("checksum", text)), None
    try:
        return None, ChecksumList(found[0], found[1], Source(found[1]).redacted)
    except InvalidInput as error:
        raise InvalidInput("checksum", text, error.accepted) from error


def _is_http(url: str) -> bool:
    return re.match("https?://", url, re.IGNORECASE) is not None


def _check_servers(spec: DataSpec, options: Mapping[str, Any]) -> None:
    """Refuse headers and certificates of CAs without an HTTP server, and a list of checksums without a file name.

    :raises InvalidInput: one of these options has no use.
    """
    if spec.checksum_list is not None and spec.origin is None:
        raise InvalidInput(
            "checksum",
            options["checksum"],
            "a file with checksums goes with a path or a url, whose name is looked up there",
        )
    urls = [url for url in (spec.origin, spec.checksum_list and spec.checksum_list.url) if url and _is_http(url)]
    for name in ("headers", "ca_path"):
        if options[name] is not None and spec.origin is not None and not urls:
            raise InvalidInput(
                name,
                _redacted_value(name, options[name]),
                "it goes with a url, or a checksum from a URL, with http or https",
            )
    if "authorization" in map(str.lower, spec.headers) and any("@" in urlsplit(url).netloc for url in urls):
        raise InvalidInput(
            "headers", "Authorization", "it doesn't go together with a user in a URL, which is sent as that header"
        )


def _read_origin(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the path or URL to copy from, and its form for messages."""
    if options["path"] is not None:
        scheme, separator, _rest = options["path"].partition("://")
        if separator and scheme.isalpha():
            raise InvalidInput("path", f"{scheme}://...", "a file of the front-end is expected; a URL is given as url")
        path = absolute("path", options["path"])
        return path, path
    if options["url"] is None:
        return None, None
    try:
        source = Source(options["url"])
    except InvalidInput as error:
        raise InvalidInput("url", error.value, error.accepted) from error
    if not source.scheme:
        raise InvalidInput(
            "url", options["url"], "a URL with http, https or ssh is expected; a file of the front-end is given as path"
        )
    return source.path, source.redacted


__all__ = ["IMAGE_OPTIONS", "MOUNT_OPTIONS", "DataSpec", "ImageSpec", "parse_options"]
