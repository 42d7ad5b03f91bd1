# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of ``domain_volumes``: the declaration in KubeVirt's words, and its use on this host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.records import dataclass, field
from ..._image.container.store import DIRECTORY as CACHE
from ..._libvirt.connection import DEFAULT_URI, check_local
from ..._model.names import check_domain
from ..catalog import CATALOG_OPTIONS
from ..domain_restart import RESTART_OPTIONS, check_timeout
from .container_disks import PullOptions

#: The directory with the files of volumes, one directory a domain. QEMU can reach what is in it.
DEFAULT_DIRECTORY = "/var/lib/libvirt/granary-vmstore/volumes"

_LIST = {"type": "list", "elements": "dict", "default": []}
_MAPPING = {"type": "dict", "default": {}}

#: The options that are the declaration itself. Their content is read and checked by ``_volume``, for which both
#: spellings of each key are the same.
DECLARATION_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "disks": _LIST,
    "filesystems": _LIST,
    "volumes": _LIST,
    "data_volume_templates": {**_LIST, "aliases": ["dataVolumeTemplates"]},
    "config_maps": _MAPPING,
    "secrets": {**_MAPPING, "no_log": False},
    "service_accounts": _MAPPING,
    "metadata": _MAPPING,
    "block_multi_queue": {"type": "bool", "default": False, "aliases": ["blockMultiQueue"]},
    "io_threads_policy": {"type": "str", "aliases": ["ioThreadsPolicy"]},
    "io_threads": {"type": "dict", "aliases": ["ioThreads"]},
    "downward_metrics": {"type": "bool", "default": False, "aliases": ["downwardMetrics"]},
    "virtio_transitional": {"type": "bool", "default": False, "aliases": ["useVirtioTransitional"]},
    "disable_hotplug": {"type": "bool", "default": False, "aliases": ["disableHotplug"]},
    "auto_attach": {"type": "bool", "default": True},
    "cloud_init_limit": {"type": "int", "default": 2048},
}

#: The options of one domain.
DOMAIN_OPTIONS: dict[str, Mapping[str, object]] = {
    "domain": {"type": "str"},
    **DECLARATION_OPTIONS,
    "claims": {"type": "list", "elements": "dict"},
}

DOMAIN_VOLUMES_SPEC = (
    ArgumentSpec(
        {
            **DOMAIN_OPTIONS,
            "domains": {"type": "list", "elements": "dict", "options": DOMAIN_OPTIONS},
            "insecure": {"type": "bool", "default": False},
            "ca_path": {"type": "path"},
            "cache": {"type": "path", "default": CACHE},
            "purge": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": DEFAULT_DIRECTORY},
            "uri": {"type": "str", "default": DEFAULT_URI},
        },
        required_one_of=[["domain", "domains"]],
        mutually_exclusive=[["domain", "domains"]],
        repeated=["domains"],
    )
    .merge(CATALOG_OPTIONS)
    .merge(ArgumentSpec(RESTART_OPTIONS))
)


@dataclass(frozen=True)
class VolumesOptions:
    """The options of a run.

    :arg declaration: the declaration as plain data.
    :arg claims: images that the caller knows; ``None`` to find them in the catalog.
    :arg purge: whether files of volumes that aren't declared any more are removed.
    :arg directory: the directory with the files of volumes.
    :arg pull: the options for registries.
    :arg cache: the directory with the disks of container images.
    """

    domain: str
    declaration: Mapping[str, Any] = field(repr=False)
    claims: list[Mapping[str, Any]] | None
    purge: bool
    directory: str
    pull: PullOptions
    cache: str
    uri: str
    catalog: str
    restart: str
    restart_timeout: int


def parse_domains(options: Mapping[str, Any]) -> list[VolumesOptions]:
    """Return the options of each domain of the list ``domains``. Other options are those of all domains.

    Images for claims are those of all domains, too, unless a domain has its own.

    :raises InvalidInput: an option is invalid, or a domain is twice in the list.
    """
    given = [name for name, option in DECLARATION_OPTIONS.items() if options[name] != option.get("default")]
    if given:
        raise InvalidInput(given[0], "...", "with domains, each element has this option")
    common = {name: value for name, value in options.items() if name not in DOMAIN_OPTIONS}
    found: list[VolumesOptions] = []
    for place, one in enumerate(options["domains"]):
        if one["domain"] is None:
            raise InvalidInput(f"domains[{place}].domain", None, "the name or UUID of a domain is expected")
        if one["domain"] in [other.domain for other in found]:
            raise InvalidInput(f"domains[{place}].domain", one["domain"], "each domain is expected once")
        claims = options["claims"] if one["claims"] is None else one["claims"]
        found.append(parse_options({**common, **one, "claims": claims}))
    return found


def parse_options(options: Mapping[str, Any]) -> VolumesOptions:
    """Return the options of a run.

    :raises InvalidInput: an option is invalid. The declaration isn't checked yet.
    """
    check_timeout(options["restart_timeout"])
    declaration = {name: options[name] for name in DECLARATION_OPTIONS if options[name] not in (None, [], {})}
    return VolumesOptions(
        domain=check_domain("domain", options["domain"]),
        declaration=declaration,
        claims=options["claims"],
        purge=options["purge"],
        directory=absolute("directory", os.fspath(options["directory"])),
        pull=PullOptions(options["insecure"], options["ca_path"]),
        cache=absolute("cache", options["cache"]),
        uri=check_local(options["uri"]),
        catalog=absolute("catalog", options["catalog"]),
        restart=options["restart"],
        restart_timeout=options["restart_timeout"],
    )


__all__ = ["DECLARATION_OPTIONS", "DOMAIN_VOLUMES_SPEC", "VolumesOptions", "parse_domains", "parse_options"]
