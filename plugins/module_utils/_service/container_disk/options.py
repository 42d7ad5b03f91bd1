# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of the module ``container_disk_cache``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.records import dataclass
from ..._core.units import read_duration, read_size
from ..._image.container.cache import POLICIES, DiskRequest
from ..._image.container.pull_secret import find_credentials
from ..._image.container.reference import parse_reference
from ..._image.container.store import DIRECTORY
from ..image.url_access import read_ca

CONTAINER_DISK_CACHE_SPEC = ArgumentSpec(
    {
        "image": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "image_pull_policy": {"type": "str", "choices": list(POLICIES), "aliases": ["imagePullPolicy"]},
        "pull_secret": {
            "type": "dict",
            "no_log": False,
            "options": {
                "username": {"type": "str"},
                "password": {"type": "str", "no_log": True},
                "dockerconfigjson": {"type": "jsonarg", "no_log": True},
            },
        },
        "path": {"type": "str"},
        "architecture": {"type": "str"},
        "ca_path": {"type": "path"},
        "insecure": {"type": "bool", "default": False},
        "max_age": {"type": "str"},
        "max_size": {"type": "str"},
        "directory": {"type": "path", "default": DIRECTORY},
    },
    required_one_of=[["image", "max_age", "max_size"]],
)

CONTAINER_DISK_CACHE_INFO_SPEC = ArgumentSpec(
    {"image": {"type": "str"}, "directory": {"type": "path", "default": DIRECTORY}}
)


@dataclass(frozen=True)
class CacheSpec:
    """The desired state of a cache.

    :arg request: the disk that is present or absent, or ``None``.
    :arg is_absent: whether the disk is absent.
    :arg max_age: seconds since the last use after which a disk is removed, or ``None``.
    :arg max_size: upper bound of the storage of all disks in bytes, or ``None``.
    """

    directory: str
    request: DiskRequest | None
    is_absent: bool = False
    max_age: int | None = None
    max_size: int | None = None


def parse_options(options: Mapping[str, Any]) -> CacheSpec:
    """Return the desired state.

    :raises InvalidInput, FileAccessFailed: an option is invalid, or its file can't be read.
    """
    max_age, max_size = options["max_age"], options["max_size"]
    return CacheSpec(
        absolute("directory", options["directory"]),
        None if options["image"] is None else parse_request(options),
        options["state"] == "absent",
        None if max_age is None else read_duration("max_age", max_age),
        None if max_size is None else read_size("max_size", max_size) << 20,
    )


def parse_request(options: Mapping[str, Any], within: str = "") -> DiskRequest:
    """Return the request for a disk.

    :arg within: the place of the options in a declaration, for errors; empty for options of a module.
    :raises InvalidInput, FileAccessFailed: see :func:`parse_options`.
    """
    prefix = f"{within}." if within else ""
    image = parse_reference(options["image"], f"{prefix}image")
    architecture, ca_path = options["architecture"], options["ca_path"]
    if architecture is not None and re.fullmatch("[a-z0-9_]{1,32}", architecture) is None:
        raise InvalidInput("architecture", architecture, "the name of an architecture is expected, such as amd64")
    path = None if options["path"] is None else absolute(f"{prefix}path", options["path"])
    if path == "/":
        raise InvalidInput(
            f"{prefix}path", path, "the path of the disk in the image is expected, such as /disk/fedora.qcow2"
        )
    return DiskRequest(
        image,
        options["image_pull_policy"],
        path,
        architecture,
        find_credentials(options["pull_secret"], image, f"{prefix}{'image_' * bool(within)}pull_secret"),
        options["insecure"],
        None if ca_path is None else read_ca("ca_path", absolute("ca_path", ca_path)),
    )


__all__ = [
    "CONTAINER_DISK_CACHE_INFO_SPEC",
    "CONTAINER_DISK_CACHE_SPEC",
    "CacheSpec",
    "parse_options",
    "parse_request",
]
