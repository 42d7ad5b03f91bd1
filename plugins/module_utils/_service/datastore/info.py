# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of datastores: the rows of the catalog, the capacity, and the data (spec: storage-driver, "monitor")."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._catalog.catalog import Catalog
from ..._catalog.datastores import DATASTORES
from ..._catalog.images import IMAGES
from ..._core.arguments import ArgumentSpec
from ..._core.errors import DependencyNotFound, TimedOut, VmstoreError
from ..._core.plain import to_plain
from ..._driver.datastore.registry import class_for, new_driver
from ..._driver.info import OPTIONAL_ACTIONS, DriverInfo
from ..._host.mount.condition import read_conditions
from ..._model.datastore import Datastore
from ..._model.declared_vm import DeclaredVm
from ..._model.image import Image
from ..catalog import CATALOG_OPTIONS, reading
from ..disk.info import Findings, look_at_vms
from ..disk.known import KnownVms
from .desired import check_timeout

if TYPE_CHECKING:
    from ..._image.inventory import Inventory, StoredImage

DATASTORE_INFO_SPEC = ArgumentSpec(
    {
        "name": {"type": "str"},
        "vms": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 30},
    }
).merge(CATALOG_OPTIONS)


def datastore_info(options: Mapping[str, Any]) -> dict[str, object]:
    """Return every datastore, or one by name or id.

    Each datastore has its capacity and its images, or the error of reading them, and the abilities of its driver.

    :raises DependencyNotFound: no datastore has the name or id.
    """
    check_timeout(options["timeout"])
    with reading(options["catalog"]) as catalog:
        found = [(one, IMAGES.rows(catalog, datastore_id=one.id)) for one in find_datastores(catalog, options["name"])]
        known = KnownVms(catalog) if options["vms"] else None
    hung = _find_hung([one for one, _images in found], options["timeout"])
    on_hosts = {} if known is None else _look_at_hosts(known, [one.id for one, _images in found])
    return {
        "datastores": [
            {
                **one.as_dict(),
                **_monitor(one, images, options["timeout"], hung.get(one.base_path)),
                **on_hosts.get(one.id, {"hosts": [], "vms": []}),
            }
            for one, images in found
        ]
    }


def _look_at_hosts(known: KnownVms, datastores: Sequence[int]) -> dict[int, dict[str, object]]:
    """Return the hosts and the VMs of system datastores, by the id of the datastore. All hosts are looked at once."""
    vms = [vm for vm in known.vms() if vm.datastore_id in datastores]
    found = look_at_vms(known, vms)
    by_datastore: dict[int, list[DeclaredVm]] = {}
    for vm in vms:
        by_datastore.setdefault(vm.datastore_id, []).append(vm)
    return {
        number: {
            "hosts": [
                _as_host(host, known.datastore_of(there[0]), found) for host in sorted({vm.host for vm in there})
            ],
            "vms": [_as_vm(known, vm, found) for vm in there],
        }
        for number, there in by_datastore.items()
    }


def _as_host(host: str, datastore: Datastore, found: Findings) -> dict[str, object]:
    capacity = found.capacity.get((host, datastore.base_path), (None, None, None))
    return {
        "name": host,
        "monitor_error": found.errors.get(host),
        **dict(zip(("used_mb", "free_mb", "total_mb"), capacity)),
    }


def _as_vm(known: KnownVms, vm: DeclaredVm, found: Findings) -> dict[str, object]:
    disks = [{"disk": number, **(found.disks.get((vm.id, number)) or {})} for number in known.disks(vm.id)]
    return {"id": vm.id, "name": vm.name, "host": vm.host, "disks": disks}


def _find_hung(datastores: Sequence[Datastore], timeout: float) -> dict[str, VmstoreError]:
    """Return the errors of directories that don't respond, by path. All are accessed at once, so that any number of
    datastores on dead servers takes the timeout once. Datastores with bridges are on other hosts.
    """
    paths = [one.base_path for one in datastores if class_for(one).info.is_directory and not one.bridge_list]
    return {
        path: TimedOut(f"The file system of {path} is away: {condition.error}.")
        for path, condition in read_conditions(paths, timeout).items()
        if not condition.responds
    }


def find_datastores(catalog: Catalog, name: str | None) -> list[Datastore]:
    """Return all datastores, or the datastore with this name or id.

    :raises DependencyNotFound: no datastore has the name or id.
    """
    if name is None:
        return DATASTORES.rows(catalog)
    found = DATASTORES.find(catalog, name)
    if found is None:
        raise DependencyNotFound(f"name: there is no datastore {name!r} in the catalog {catalog.path}.")
    return [found]


def has_images(info: DriverInfo) -> bool:
    """Return whether the datastore holds the data of images, so that it has an inventory."""
    return info.stores_data and bool(info.image_types)


def _monitor(
    datastore: Datastore, images: Sequence[Image], timeout: float, failure: VmstoreError | None
) -> dict[str, object]:
    """Return the capacity and the data of one datastore. An error becomes a part of the result, so that the other
    datastores are returned, too.

    :arg failure: the error of its directory, if that is known already.
    """
    driver = new_driver(datastore, timeout=timeout)
    answer: dict[str, object] = {"used_mb": None, "free_mb": None, "total_mb": None, "monitor_error": None}
    answer["supports"] = {action: action in driver.info.actions for action in OPTIONAL_ACTIONS}
    inventory = None
    try:
        if failure is not None:
            raise failure
        start = time.monotonic()
        answer.update(to_plain(driver.monitor()))
        if has_images(driver.info):
            # The time is for all questions together, so that a file system that hangs between two questions costs the
            # time only once.
            driver.timeout = max(1, round(start + timeout - time.monotonic()))
            inventory = driver.inventory()
    except VmstoreError as error:
        answer["monitor_error"] = str(error)
    stored = {one.path: one for one in inventory.images} if inventory is not None else {}
    answer["images"] = [_as_result(image, stored.get(image.path)) for image in images]
    answer["orphans"] = [] if inventory is None else list(find_orphans(inventory, images))
    return answer


def _as_result(image: Image, stored: StoredImage | None) -> dict[str, object]:
    return {
        **{name: getattr(image, name) for name in ("id", "name", "path", "format")},
        "allocated_bytes": stored and stored.allocated,
        "virtual_bytes": stored and stored.virtual_size(image.format),
        "snapshots": [{"id": one.id, "allocated_bytes": one.allocated} for one in stored.snapshots] if stored else [],
    }


def find_orphans(inventory: Inventory, images: Sequence[Image]) -> Iterator[dict[str, object]]:
    """Yield data that belongs to no image of the catalog: image files with their snapshots, and snapshots or
    checksums alone.
    """
    known = {image.path for image in images}
    for one in inventory.images:
        if one.path not in known:
            yield {
                "path": one.path,
                "allocated_bytes": one.allocated + sum(snapshot.allocated for snapshot in one.snapshots),
            }
    for beside in inventory.orphaned:
        if beside.path.rpartition(".")[0] not in known:
            yield {"path": beside.path, "allocated_bytes": beside.allocated}


__all__ = ["DATASTORE_INFO_SPEC", "datastore_info", "has_images", "find_orphans", "find_datastores"]
