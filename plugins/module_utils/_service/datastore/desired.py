# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired datastores (spec: virtiofs-datastore, "Creating a VirtioFS Datastore"; storage-driver)."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._catalog.catalog import DEFAULT_LOCATION, Catalog, locate_catalog
from ..._catalog.datastores import DATASTORES, FIRST_ID
from ..._catalog.images import IMAGES
from ..._catalog.vms import VMS
from ..._core import records
from ..._core.arguments import ArgumentSpec
from ..._core.errors import Conflict, DependencyNotFound, InvalidInput, NotFound
from ..._core.paths import absolute, is_within
from ..._core.plan import Action, Plan
from ..._driver.datastore.attributes import check_values, settings_of
from ..._driver.datastore.base import TIMEOUT, DatastoreDriver
from ..._driver.datastore.image_paths import protected_paths
from ..._driver.datastore.registry import class_for, new_driver
from ..._driver.info import DriverInfo
from ..._host.mount.store import is_uuid
from ..._model.datastore import Datastore
from ..._model.names import check_host, check_name
from ..catalog import CATALOG_OPTIONS, CatalogService

TYPES = ("image", "system", "backup", "file")

#: Upper bound of a timeout in seconds: a day.
LONGEST_TIMEOUT = 86400

DATASTORE_SPEC = ArgumentSpec(
    {
        "id": {"type": "int"},
        "name": {"type": "str"},
        "type": {"type": "str", "choices": list(TYPES)},
        "ds_driver": {"type": "str"},
        "tm_driver": {"type": "str"},
        "base_path": {"type": "str"},
        "datastore_location": {"type": "str", "default": DEFAULT_LOCATION},
        "clusters": {"type": "list", "elements": "int"},
        "safe_dirs": {"type": "list", "elements": "str"},
        "restricted_dirs": {"type": "list", "elements": "str"},
        "bridge_list": {"type": "list", "elements": "str"},
        "attributes": {"type": "dict"},
        "shared": {"type": "bool"},
        "marker": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
    required_one_of=[["id", "name"]],
).merge(CATALOG_OPTIONS)

#: Options that can't be changed, because the data would have to move, or another driver would read the data.
FIXED = ("type", "ds_driver", "tm_driver", "base_path")


class DatastoreService(CatalogService):
    """Plan one datastore of the catalog.

    An option that isn't given keeps its value. A new datastore gets the default.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"], absolute("datastore_location", options["datastore_location"]))
        self.create = options["state"] == "present"
        self.id: int | None = options["id"]
        self.name: str | None = options["name"]
        self._given = parse_options(options)
        self._tried: Mapping[str, str] = {}

    def plan(self) -> Plan:
        plan = Plan()
        if self.create and self.missing:
            self._check_place(plan)
            # A plan that is refused creates no catalog, because the catalog is created after planning.
            plan.actions.append(
                Action(
                    "create catalog",
                    self.path,
                    None,
                    {"datastores": [one.name for one in DATASTORES.rows(self.catalog)]},
                )
            )
        found = DATASTORES.find(self.catalog, str(self.name) if self.id is None else self.id)
        if not self.create:
            if found is not None:
                plan.actions.append(self._removal(found))
            return plan
        wanted = self._create() if found is None else self._update(found)
        self._check_unique(wanted)
        if found is None:
            self._check_apart(wanted)
        check_datastore(wanted)
        self._try_attributes(wanted, found)
        if wanted != found:
            record = (
                functools.partial(self._insert, wanted)
                if found is None
                else functools.partial(DATASTORES.update, self.catalog, wanted)
            )
            verb = "create" if found is None else "update"
            plan.actions.append(
                Action(f"{verb} datastore", wanted.name, found and found.as_dict(), wanted.as_dict(), record)
            )
        plan.result["datastore"] = wanted.as_dict()
        return plan

    def _check_place(self, plan: Plan) -> None:
        """Require the directory of the catalog.

        :raises DependencyNotFound: the directory is missing.
        """
        try:
            locate_catalog(self.path)
        except DependencyNotFound as error:
            self.report_missing(plan, error, is_planned=True)

    def _create(self) -> Datastore:
        if self.id is not None:
            raise NotFound(
                f"id: there is no datastore {self.id} in the catalog {self.path}, and a new one gets its id by itself."
            )
        kind = self._given.get("type", "image")
        for option, types in (("ds_driver", ("image", "backup", "file")), ("tm_driver", ("image", "system", "file"))):
            if kind in types and option not in self._given:
                raise InvalidInput(option, None, f"a new datastore of type {kind!r} needs one")
        number = self.catalog.next_id("datastore")
        defaults = {
            "type": kind,
            "ds_driver": None,
            "tm_driver": None,
            "base_path": f"{self.datastore_location}/{number}",
        }
        return Datastore(id=number, name=str(self.name), **{**defaults, **self._given})

    def _update(self, found: Datastore) -> Datastore:
        for option in FIXED:
            old = getattr(found, option)
            if self._given.get(option, old) != old:
                raise Conflict(
                    f"{option}: the datastore {found.name!r} was created with {old!r}, which can't change to "
                    f"{self._given[option]!r}."
                )
        return records.replace(found, name=self.name or found.name, **self._given)

    def _try_attributes(self, wanted: Datastore, found: Datastore | None) -> None:
        """Check new values once and outside the transaction, because the check runs commands."""
        known = [self._tried, None if found is None else found.attributes]
        if wanted.attributes not in known:
            new_driver(wanted).try_attributes()
            self._tried = wanted.attributes

    def _check_unique(self, wanted: Datastore) -> None:
        for other in DATASTORES.rows(self.catalog):
            for option in ("name", "base_path"):
                if other.id != wanted.id and getattr(other, option) == getattr(wanted, option):
                    raise Conflict(
                        f"{option}: {getattr(wanted, option)!r} belongs to the datastore {other.id} ({other.name!r})."
                    )

    def _check_apart(self, wanted: Datastore) -> None:
        """Refuse a datastore inside another one, which would find files there that belong to none of its images.

        :raises Conflict: ``base_path`` is inside the directory of another datastore, or holds that directory.
        """
        for other in DATASTORES.rows(self.catalog):
            if is_within(wanted.base_path, other.base_path) or is_within(other.base_path, wanted.base_path):
                raise Conflict(
                    f"base_path: {wanted.base_path!r} is within the datastore {other.name!r}, which has "
                    f"{other.base_path!r}, or around it."
                )

    def _insert(self, datastore: Datastore) -> None:
        self.catalog.take_id("datastore")
        DATASTORES.insert(self.catalog, datastore)

    def _removal(self, found: Datastore) -> Action:
        if found.id < FIRST_ID:
            raise Conflict(f"The datastore {found.id} ({found.name!r}) is one of the defaults, which can't be removed.")
        images = IMAGES.rows(self.catalog, datastore_id=found.id)
        if images:
            raise Conflict(
                f"The datastore {found.name!r} can't be removed: it has the images "
                f"{', '.join(repr(image.name) for image in images)}."
            )
        vms = VMS.rows(self.catalog, datastore_id=found.id)
        if vms:
            raise Conflict(
                f"The datastore {found.name!r} can't be removed: it has the disks of {', '.join(map(str, vms))}."
            )
        return Action(
            "remove datastore",
            found.name,
            found.as_dict(),
            None,
            functools.partial(DATASTORES.delete, self.catalog, found.id),
        )


def parse_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options as values of :class:`Datastore`, each checked by itself."""
    if options["name"] is not None:
        check_name("name", options["name"])
    readers: Mapping[str, Callable[[Any], object]] = {
        "base_path": functools.partial(absolute, "base_path"),
        "safe_dirs": lambda paths: _unique(absolute("safe_dirs", path) for path in paths),
        "restricted_dirs": lambda paths: _unique(absolute("restricted_dirs", path) for path in paths),
        "bridge_list": lambda hosts: _unique(check_host("bridge_list", host) for host in hosts),
        "clusters": _read_clusters,
        "attributes": _read_attributes,
        "marker": _read_marker,
    }
    names = [*FIXED, *readers, "shared"]
    return {name: readers.get(name, _same)(options[name]) for name in names if options[name] is not None}


def _same(value: object) -> object:
    return value


def _read_clusters(clusters: Sequence[int]) -> tuple[int, ...]:
    for cluster in clusters:
        if cluster < 0:
            raise InvalidInput("clusters", cluster, "ids from 0 on are expected")
    return _unique(clusters)


def _read_attributes(attributes: Mapping[Any, object]) -> dict[str, str]:
    return {str(name): _attribute_text(name, value) for name, value in attributes.items()}


def _read_marker(marker: str) -> str | None:
    if marker and not is_uuid(marker):
        raise InvalidInput("marker", marker, "a UUID in lower case, or an empty text for none, is expected")
    return marker or None


def _unique(values: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _attribute_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (str, int)) or not str(value).isprintable():
        raise InvalidInput(f"attributes.{name}", value, "printable text or a number is expected")
    return str(value)


def check_datastore(datastore: Datastore) -> None:
    """Refuse a combination that no driver supports.

    :raises InvalidInput: an unknown driver, type or transfer driver, or an unknown attribute of this driver.
    """
    if datastore.type == "system" and datastore.ds_driver is not None:
        raise InvalidInput("ds_driver", datastore.ds_driver, "a datastore of type 'system' has none")
    info = class_for(datastore).info
    if datastore.type not in info.datastore_types:
        raise InvalidInput(
            "type", datastore.type, f"the {info.name} driver serves datastores of type {_join(info.datastore_types)}"
        )
    if datastore.tm_driver not in info.tm_drivers:
        raise InvalidInput(
            "tm_driver",
            datastore.tm_driver,
            f"{_join(info.tm_drivers)} is expected with datastores of the {info.name} driver",
        )
    for name in datastore.attributes:
        _check_attribute(name, info)
    if datastore.shared and not info.is_directory:
        raise InvalidInput("shared", True, f"the {info.name} driver has no directory of its own")
    if datastore.marker is not None and not datastore.shared:
        raise InvalidInput("marker", datastore.marker, "shared=true is expected with a marker")
    check_values(datastore.attributes)


def _check_attribute(name: str, info: DriverInfo) -> None:
    if name in info.attributes:
        return
    own = set(DATASTORE_SPEC.argument_spec)
    nearest = difflib.get_close_matches(name.lower(), sorted(info.attributes | own), n=1, cutoff=0)
    if name.lower() in own:
        accepted = f"give it as the module's option {name.lower()}"
    elif info.attributes:
        hint = f"; the nearest is {nearest[0]!r}" if nearest[0] in info.attributes else ""
        accepted = f"the attributes of the {info.name} driver are {_join(info.attributes)}{hint}"
    else:
        accepted = (
            f"the {info.name} driver has no further attributes; the nearest option of the module is {nearest[0]!r}"
        )
    raise InvalidInput("attributes", name, accepted)


def _join(names: Sequence[str] | frozenset[str]) -> str:
    ordered = [repr(name) for name in sorted(names)]
    return ", ".join(ordered[:-1]) + (" or " if len(ordered) > 1 else "") + ordered[-1]


def driver_of(
    catalog: Catalog,
    datastore: Datastore,
    timeout: float = TIMEOUT,
    *,
    datastores: Sequence[Datastore] | None = None,
    may_mount: bool = False,
    log: Callable[[str], object] = str,
) -> DatastoreDriver:
    """Return the driver of a datastore of this catalog. The driver makes no image of files of the catalog or of any
    datastore.

    :arg timeout: seconds for one question to a file system.
    :arg datastores: all datastores of the catalog, where the caller has read them already.
    :arg may_mount: whether a datastore with NFS_AUTO_ENABLE is mounted when it is needed.
    :arg log: a callable that gets each log line of the driver.
    """
    known = DATASTORES.rows(catalog) if datastores is None else datastores
    return new_driver(
        datastore,
        protected=protected_paths(catalog.path, known),
        settings=settings_of(datastore.attributes),
        timeout=timeout,
        may_mount=may_mount,
        log=log,
    )


def check_timeout(seconds: int) -> None:
    """Refuse a timeout outside of 1 to :data:`LONGEST_TIMEOUT` seconds.

    :raises InvalidInput: ``seconds`` is outside of these bounds.
    """
    if not 1 <= seconds <= LONGEST_TIMEOUT:
        raise InvalidInput("timeout", seconds, f"1 to {LONGEST_TIMEOUT} seconds are expected")


__all__ = ["DATASTORE_SPEC", "DatastoreService", "check_datastore", "check_timeout", "driver_of", "parse_options"]
