# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reading of a whole declaration from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.problems import Problems
from ..._model.domain_volumes import IO_THREADS_POLICIES, DomainVolumes, GuestMetadata
from .disks import read_disk_spec, read_filesystem_spec
from .readers import (
    INVALID,
    Shape,
    any_text,
    choice,
    flag,
    items,
    mapping,
    optional_text,
    present,
    read_fields,
    record,
    text,
    whole_number,
)
from .templates import read_template
from .volumes import read_keyed_data, read_volume_spec


def _io_threads(supplemental_pool_thread_count: int | None = None) -> int | None:
    return supplemental_pool_thread_count


_METADATA = record(
    Shape(
        {
            "name": optional_text,
            "namespace": optional_text,
            "uid": optional_text,
            "hostname": optional_text,
            "instance_type": optional_text,
            "labels": mapping(any_text),
            "annotations": mapping(any_text),
            "public_keys": items(text),
        }
    ),
    GuestMetadata,
)

_DECLARATION = Shape(
    {
        "disks": items(read_disk_spec),
        "filesystems": items(read_filesystem_spec),
        "volumes": items(read_volume_spec),
        "data_volume_templates": items(read_template),
        "block_multi_queue": flag,
        "io_threads_policy": choice(*IO_THREADS_POLICIES, rule="io_threads_policy"),
        "io_threads": record(Shape({"supplemental_pool_thread_count": whole_number}), _io_threads),
        "downward_metrics": present,
        "auto_attach": flag,
        "virtio_transitional": flag,
        "disable_hotplug": flag,
        "cloud_init_limit": whole_number,
        "config_maps": mapping(read_keyed_data),
        "secrets": mapping(read_keyed_data),
        "service_accounts": mapping(read_keyed_data),
        "metadata": _METADATA,
    },
    spelled={"virtio_transitional": ["useVirtioTransitional"]},
)


def read_declaration(problems: Problems, options: Mapping[str, Any]) -> DomainVolumes:
    """Return the declaration for the options of a module. Parts with problems are left out."""
    found = read_fields(problems, "", options, _DECLARATION)
    return DomainVolumes() if found is INVALID else DomainVolumes(**found)


__all__ = ["read_declaration"]
