# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for the filesystems of a declaration."""

from __future__ import annotations

from ..._core.errors import InvalidInput
from ..._core.problems import Problems
from ..._model.domain_volumes import DomainVolumes
from ..._model.idmap import IdMap, read_id_maps
from ..._model.mount_names import LONGEST_TAG
from ..._model.volume_disks import FilesystemSpec
from ..._model.volume_sources import (
    ConfigMap,
    DataVolume,
    DownwardApi,
    PersistentVolumeClaim,
    Secret,
    ServiceAccount,
)
from ..connection import source_option
from ..facts import DomainFacts
from ..reading.volumes import Unreadable

#: The sources that can be shared as a filesystem.
_SOURCES = (PersistentVolumeClaim, DataVolume, ConfigMap, Secret, ServiceAccount, DownwardApi)
#: Upper bound of the length of a queue in requests (QEMU). The length is a power of 2.
_LONGEST_QUEUE = 1024


def admit_filesystems(problems: Problems, spec: DomainVolumes, facts: DomainFacts) -> None:
    """Add a problem for each rule that a filesystem breaks."""
    volumes = {volume.name: volume for volume in spec.volumes}
    for place, filesystem in enumerate(spec.filesystems):
        path = f"filesystems[{place}]"
        _admit_options(problems, f"{path}.virtiofs", filesystem)
        _admit_name(problems, path, filesystem.name, facts)
        volume = volumes.get(filesystem.name)
        if volume is None:
            problems.add("no_volume", f"{path}.name", filesystem.name, "the name of a volume is expected")
        elif not isinstance(volume.source, (*_SOURCES, Unreadable)):
            problems.add(
                "filesystem_source",
                f"{path}.name",
                source_option(volume.source),
                "a volume with persistent_volume_claim, data_volume, config_map, secret, service_account or "
                "downward_api is expected",
            )


def _admit_name(problems: Problems, path: str, name: str, facts: DomainFacts) -> None:
    if len(name.encode()) > LONGEST_TAG:
        problems.add(
            "tag_length", f"{path}.name", name, f"at most {LONGEST_TAG} bytes are expected, because it is a mount tag"
        )
    if name in facts.other_tags:
        problems.add(
            "tag_taken", f"{path}.name", name, f"the domain has this mount tag already, for {facts.other_tags[name]}"
        )


def _admit_options(problems: Problems, path: str, filesystem: FilesystemSpec) -> None:
    queue, threads = filesystem.queue, filesystem.thread_pool
    if not 1 <= queue <= _LONGEST_QUEUE or queue & (queue - 1):
        problems.add("queue", f"{path}.queue", queue, f"a power of 2 up to {_LONGEST_QUEUE} is expected")
    if threads is not None and threads < 0:
        problems.add("thread_pool", f"{path}.thread_pool", threads, "a number from 0 on is expected")
    if filesystem.sandbox == "chroot" and (filesystem.uid_map or filesystem.gid_map):
        problems.add("sandbox_maps", f"{path}.sandbox", "chroot", "namespace is expected with uid_map and gid_map")
    for name, maps in (("uid_map", filesystem.uid_map), ("gid_map", filesystem.gid_map)):
        _admit_id_maps(problems, f"{path}.{name}", maps)


def _admit_id_maps(problems: Problems, path: str, maps: tuple[IdMap, ...]) -> None:
    try:
        read_id_maps(path, [one.as_dict() for one in maps])
    except InvalidInput as error:
        problems.add("id_map", path, error.value, error.accepted)


__all__ = ["admit_filesystems"]
