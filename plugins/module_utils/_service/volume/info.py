# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declarations of this host's domains, read back from their definitions. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import NotFound
from ..._core.paths import absolute
from ..._image.container.store import DIRECTORY as CACHE
from ..._image.container.store import DiskStore
from ..._libvirt.connection import DEFAULT_URI, check_local
from ..._model.names import check_domain
from ..catalog import CATALOG_OPTIONS
from .claims import Claims
from .found_domain import DomainReader, HostData
from .found_sources import HostImages, read_container_disks
from .host import VolumesHost
from .options import DEFAULT_DIRECTORY

DOMAIN_VOLUMES_INFO_SPEC = ArgumentSpec(
    {
        "domain": {"type": "str"},
        "claims": {"type": "list", "elements": "dict"},
        "cache": {"type": "path", "default": CACHE},
        "directory": {"type": "path", "default": DEFAULT_DIRECTORY},
        "uri": {"type": "str", "default": DEFAULT_URI},
    }
).merge(CATALOG_OPTIONS)


def domain_volumes_info(options: Mapping[str, Any]) -> dict[str, object]:
    """Return one domain, or all domains of this host by name. A domain that vanishes meanwhile is left out.

    :raises NotFound: the one domain doesn't exist.
    :raises VmstoreError: the catalog, the cache or libvirt can't be read.
    """
    host = VolumesHost(check_local(options["uri"]), read_only=True)
    claims = Claims(options["catalog"], options["claims"])
    store = DiskStore(absolute("cache", options["cache"]))
    data = HostData(
        host,
        claims,
        HostImages(claims.by_path(), read_container_disks(store)),
        absolute("directory", os.fspath(options["directory"])),
    )
    hypervisor = host.hypervisor
    if options["domain"] is not None:
        return {"domains": [DomainReader(data, hypervisor.domain(check_domain("domain", options["domain"]))).read()]}
    found = []
    for domain in hypervisor.domains():
        try:
            found.append(DomainReader(data, domain).read())
        except NotFound:
            continue
    return {"domains": found}


__all__ = ["DOMAIN_VOLUMES_INFO_SPEC", "domain_volumes_info"]
