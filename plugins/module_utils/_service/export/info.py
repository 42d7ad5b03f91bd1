# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtiofs devices of this host's domains: as defined, as running, and the differences of these two."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import NotFound
from ..._host.ids.domain_ids import read_allocations
from ..._host.share_risks import directory_risks
from ..._libvirt.connection import DEFAULT_URI, Domain, Hypervisor, check_local
from ..._libvirt.devices.filesystem import VirtioFs, filesystems
from ..._libvirt.domain_xml import parse
from ..._model.names import check_domain
from .daemon import find_state
from .identity import daemon_user, other_owners, owners

VIRTIOFS_EXPORT_INFO_SPEC = ArgumentSpec(
    {
        "domain": {"type": "str"},
        "service_user": {"type": "str"},
        "uri": {"type": "str", "default": DEFAULT_URI},
    }
)


def virtiofs_export_info(options: Mapping[str, Any]) -> dict[str, object]:
    """Return one domain, or all domains of this host by name. A domain that vanishes meanwhile is left out.

    :raises NotFound: the one domain doesn't exist.
    """
    hypervisor = Hypervisor(check_local(options["uri"]))
    user = daemon_user(options["service_user"])
    if options["domain"] is not None:
        return {
            "domains": [_read(hypervisor.domain(check_domain("domain", options["domain"])), user)],
            "domain_subids": _domain_subids(),
        }
    found = []
    for domain in hypervisor.domains():
        try:
            found.append(_read(domain, user))
        except NotFound:
            continue
    return {"domains": found, "domain_subids": _domain_subids()}


def _domain_subids() -> list[dict[str, object]] | None:
    """Return the ranges of single domains; ``None`` for users other than root, who may not read them."""
    if os.geteuid() != 0:
        return None
    return [
        {"domain": one.name, "uuid": uuid, "start": one.start, "count": one.count}
        for uuid, one in sorted(read_allocations().items())
    ]


def _read(domain: Domain, user: str) -> dict[str, object]:
    persistent = _devices(parse(domain.persistent_xml())) if domain.is_persistent else {}
    text = domain.running_xml()
    root = None if text is None else parse(text)
    running = {} if root is None else _devices(root)
    keys = [*persistent, *(key for key in running if key not in persistent)]
    devices = []
    for key in keys:
        values = _combine(persistent.get(key), running.get(key), root is not None)
        state = None if root is None or key not in running else find_state(domain.name, root, running[key])
        others = other_owners(user, running.get(key) or persistent[key])
        devices.append({**values, "daemon": None if state is None else state.value, "other_owners": others})
    return {"name": domain.name, "uuid": domain.uuid, "running": root is not None, "devices": devices}


def _devices(root: ET.Element) -> dict[tuple[str, str], VirtioFs]:
    return {(device.tag, device.source): device for _element, device in filesystems(root)}


def _combine(persistent: VirtioFs | None, running: VirtioFs | None, is_running: bool) -> dict[str, object]:
    device = persistent or running
    if device is None:
        raise ValueError("a device that is neither defined nor running")
    if persistent and running:
        differences = persistent.differences(running)
    else:
        differences = ["running" if persistent else "persistent"] if is_running else []
    return {
        **device_as_result(device),
        "persistent": persistent is not None,
        "running": running is not None,
        "differences": differences,
        "risks": directory_risks(device.source, read_only=device.read_only) if os.geteuid() == 0 else None,
    }


def device_as_result(device: VirtioFs) -> dict[str, object]:
    """Return a device as plain data, for the result of a module."""
    return {
        "mount_tag": device.tag,
        "source": device.source,
        "read_only": device.read_only,
        "uid_map": [one.as_dict() for one in device.uid_map],
        "gid_map": [one.as_dict() for one in device.gid_map],
        "owners": owners(device.uid_map, device.gid_map),
        "cache": device.cache or "auto",
        "queue": device.queue,
        "xattr": device.xattr,
        "sandbox": device.sandbox,
        "thread_pool": device.thread_pool,
        "binary": device.binary,
    }


__all__ = ["VIRTIOFS_EXPORT_INFO_SPEC", "device_as_result", "virtiofs_export_info"]
