# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of an export and the desired state that they describe (spec: virtiofs-datastore)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.records import dataclass
from ..._libvirt.connection import DEFAULT_URI, check_local
from ..._model.idmap import ID_MAP_OPTION, read_id_maps
from ..._model.mount_names import check_mount_point, check_mount_tag
from ..._model.names import check_domain, check_host
from ..catalog import CATALOG_OPTIONS
from ..domain_restart import RESTART_OPTIONS, check_timeout
from ..image.attached import ImageAttachment
from .identity import IdMaps
from .owner import OWNER_OPTIONS, DirectoryOwner

#: The lengths of a queue that QEMU accepts. QEMU refuses any other only when the domain starts.
QUEUES = [2**power for power in range(11)]

#: The options whose values are in an attachment already.
DECIDED = ("mount_tag", "mount_point", "read_only", "uid_map", "gid_map")

VIRTIOFS_EXPORT_SPEC = (
    ArgumentSpec(
        {
            "domain": {"type": "str", "required": True},
            "image": {"type": "str"},
            "attachment": {"type": "dict"},
            "source": {"type": "str"},
            "mount_tag": {"type": "str"},
            "mount_point": {"type": "str"},
            "read_only": {"type": "bool"},
            "uid_map": ID_MAP_OPTION,
            "gid_map": ID_MAP_OPTION,
            "cache": {"type": "str", "choices": ["none", "auto", "always"], "default": "none"},
            "queue": {"type": "int"},
            "xattr": {"type": "bool"},
            "sandbox": {"type": "str", "choices": ["namespace", "chroot"]},
            "thread_pool": {"type": "int"},
            "binary": {"type": "str"},
            "service_user": {"type": "str"},
            "subid": {"type": "str", "choices": ["shared", "per_domain"], "default": "shared"},
            "allow_unmapped": {"type": "bool", "default": False},
            **OWNER_OPTIONS,
            "seed": {"type": "str"},
            "uri": {"type": "str", "default": DEFAULT_URI},
            "host": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        mutually_exclusive=[["image", "attachment", "source"], *(["attachment", name] for name in DECIDED)],
        required_one_of=[["image", "attachment", "source", "mount_tag"]],
    )
    .merge(CATALOG_OPTIONS)
    .merge(ArgumentSpec(RESTART_OPTIONS))
)


@dataclass(frozen=True)
class ExportSpec:
    """The desired state of one export. ``None`` is a value that the user leaves out.

    :arg cache: ``None`` for ``auto``, as in the domain's XML.
    :arg has_own_ids: whether the domain gets ids that no other domain has.
    :arg own_dirs: directories of this collection itself, which ``source`` can be in.
    """

    domain: str
    is_present: bool
    image: str | None
    attachment: ImageAttachment | None
    source: str | None
    mount_tag: str | None
    mount_point: str | None
    read_only: bool | None
    uid_map: IdMaps | None
    gid_map: IdMaps | None
    cache: str | None
    queue: int | None
    xattr: bool | None
    sandbox: str | None
    thread_pool: int | None
    binary: str | None
    service_user: str | None
    has_own_ids: bool
    allow_unmapped: bool
    owner: DirectoryOwner
    seed: str | None
    uri: str
    host: str
    catalog: str
    restart: str
    restart_timeout: int
    own_dirs: tuple[str, ...] = ()


def parse_options(options: Mapping[str, Any]) -> ExportSpec:
    """Return the desired state that ``options`` describe.

    :raises InvalidInput: a value isn't accepted, or one is missing.
    """
    if options["queue"] is not None and options["queue"] not in QUEUES:
        raise InvalidInput("queue", options["queue"], "a power of 2 from 1 to 1024 is expected")
    if options["thread_pool"] is not None and options["thread_pool"] < 0:
        raise InvalidInput("thread_pool", options["thread_pool"], "a number of threads from 0 on is expected")
    check_timeout(options["restart_timeout"])
    unchecked = ("image", "read_only", "queue", "xattr", "sandbox", "thread_pool", "binary", "service_user")
    spec = ExportSpec(
        domain=check_domain("domain", options["domain"]),
        is_present=options["state"] == "present",
        attachment=None if options["attachment"] is None else ImageAttachment.from_dict(options["attachment"]),
        source=_optional_path("source", options),
        mount_tag=None if options["mount_tag"] is None else check_mount_tag("mount_tag", options["mount_tag"]),
        mount_point=(
            None if options["mount_point"] is None else check_mount_point("mount_point", options["mount_point"])
        ),
        uid_map=read_id_maps("uid_map", options["uid_map"]),
        gid_map=read_id_maps("gid_map", options["gid_map"]),
        cache=None if options["cache"] == "auto" else options["cache"],
        has_own_ids=options["subid"] == "per_domain",
        allow_unmapped=options["allow_unmapped"],
        owner=DirectoryOwner(options),
        seed=_optional_path("seed", options),
        uri=check_local(options["uri"]),
        host=check_host("host", options["host"] or os.uname().nodename),
        catalog=absolute("catalog", options["catalog"]),
        restart=options["restart"],
        restart_timeout=options["restart_timeout"],
        **{name: options[name] for name in unchecked},
    )
    if spec.is_present:
        _check_complete(spec)
    return spec


def _optional_path(name: str, options: Mapping[str, Any]) -> str | None:
    return None if options[name] is None else absolute(name, options[name])


def _check_complete(spec: ExportSpec) -> None:
    if spec.image is None and spec.attachment is None and spec.source is None:
        raise InvalidInput("state", "present", "with it one of image, attachment and source is expected")
    if spec.source is not None and spec.mount_tag is None:
        raise InvalidInput("mount_tag", None, "a source that is no image needs a tag")
    if spec.source is not None and spec.seed is not None and spec.mount_point is None:
        raise InvalidInput("mount_point", None, "a seed for a source that is no image needs a mount point")


__all__ = ["VIRTIOFS_EXPORT_SPEC", "ExportSpec", "parse_options"]
