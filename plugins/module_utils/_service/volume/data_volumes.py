# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data volumes of a declaration: images of the catalog that are imported first, and removed with the volumes."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from ..._catalog.catalog import catalog_exists, read_catalog
from ..._catalog.images import IMAGES
from ..._core.errors import DependencyNotFound, InvalidInput, PartlyDone, UnsupportedAction, VmstoreError, os_errors
from ..._core.plan import Action, Plan
from ..._image.container.cache import ContainerDiskCache
from ..._model.domain_volumes import (
    BLOCK,
    ClaimImport,
    DataVolumeTemplate,
    DomainVolumes,
    HttpImport,
    RegistryImport,
)
from ..._volume.sizes import MIB
from ..container_disk.options import parse_request
from ..image.images import IMAGE_SPEC, ImageService
from ..image.options import IMAGE_OPTIONS
from .container_disks import PullOptions
from .texts import read_keyed_data

#: The datastore of a template without a storage class. Each catalog begins with it.
DEFAULT_DATASTORE = "default"
#: The keys of a secret with the user and the password for a server (CDI).
_USER, _PASSWORD = "accessKeyId", "secretKey"


class DataVolumes:
    """The data volumes of one declaration in the catalog of this host.

    :arg catalog: the path of the catalog.
    :arg recorded: the names of the data volumes of the last run.
    :arg log: a callable that gets each log line.
    """

    def __init__(
        self,
        spec: DomainVolumes,
        catalog: str,
        cache: ContainerDiskCache,
        pull: PullOptions,
        recorded: Collection[str],
        log: Callable[[str], object],
    ) -> None:
        self._spec = spec
        self._catalog = catalog
        self._cache = cache
        self._pull = pull
        self._recorded = recorded
        self._log = log
        self._missing = self._find_missing()

    def _find_missing(self) -> list[tuple[int, DataVolumeTemplate]]:
        """Return the templates without an image, each with its place.

        :raises DependencyNotFound: this host has no catalog.
        """
        templates = list(enumerate(self._spec.data_volume_templates))
        if not templates:
            return []
        if not catalog_exists(self._catalog):
            raise DependencyNotFound(
                f"data_volume_templates: there is no catalog {self._catalog} on this host; import the images with the "
                "module image on the front-end, and name them in 'claims'."
            )
        with read_catalog(self._catalog, missing_ok=False) as catalog:
            return [(place, one) for place, one in templates if IMAGES.find(catalog, one.name) is None]

    @property
    def imported(self) -> frozenset[str]:
        """Return the names of the images that this run imports. An image that existed belongs to somebody else."""
        return frozenset(template.name for _place, template in self._missing)

    def look(self) -> list[Action]:
        """Return the imports that are missing, without a change.

        :raises VmstoreError: an import is impossible.
        """
        actions = []
        for place, template in self._missing:
            if isinstance(template.source, RegistryImport):  # the disk isn't pulled in check mode
                actions.append(Action("import image", template.name, None, {"url": template.source.url}))
            else:
                with contextlib.ExitStack() as stack:
                    actions += self._service(place, template, stack).dry_run().actions
        return actions

    def create(self) -> list[Action]:
        """Import the missing images, and return what was done.

        :raises VmstoreError: an image can't be imported.
        """
        actions = []
        for place, template in self._missing:
            with contextlib.ExitStack() as stack:
                actions += self._service(place, template, stack).converge().actions
        return actions

    @property
    def _outdated(self) -> list[str]:
        """Return the names of the recorded images whose templates aren't declared any more."""
        return sorted(set(self._recorded) - {one.name for one in self._spec.data_volume_templates})

    def find_removed(self) -> frozenset[str]:
        """Return the names of the outdated images that the catalog of this host doesn't have any more."""
        if not self._outdated or not catalog_exists(self._catalog):
            return frozenset()
        with read_catalog(self._catalog, missing_ok=False) as catalog:
            return frozenset(name for name in self._outdated if IMAGES.find(catalog, name) is None)

    def remove_outdated(self, *, is_dry_run: bool) -> Plan:
        """Remove the images of templates that aren't declared any more, and return what was done. An image that can't
        be removed, such as one that another domain uses, keeps no other one, and its error is in the plan.

        :arg is_dry_run: whether to return only what would be done. The domain itself still uses the images then.
        """
        plan = Plan()
        for name in self._outdated if catalog_exists(self._catalog) else ():
            service = self._image_service([{"name": name, "state": "absent", "force": is_dry_run}])
            try:
                plan.actions += (service.dry_run() if is_dry_run else service.converge()).actions
            except VmstoreError as error:
                plan.actions += cast(Plan, error.plan).actions if isinstance(error, PartlyDone) else []
                plan.errors.append(error)
        return plan

    def _image_service(self, images: Sequence[Mapping[str, Any]]) -> ImageService:
        defaults = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
        blank = {name: option.get("default") for name, option in IMAGE_OPTIONS.items()}
        service = ImageService(
            {**defaults, "catalog": self._catalog, "images": [{**blank, **image} for image in images]}
        )
        service.log = self._log
        return service

    def _service(self, place: int, template: DataVolumeTemplate, stack: contextlib.ExitStack) -> ImageService:
        """Return the service that creates the image of a template.

        :arg stack: removes the temporary files of the service.
        """
        path = f"data_volume_templates[{place}]"
        if template.volume_mode == BLOCK:
            raise UnsupportedAction(
                f"{path}.spec.storage.volume_mode: images are files; a block device of the host is a host_disk."
            )
        data = self._data_options(path, template, stack)
        image = {
            "name": template.name,
            "datastore": template.datastore or DEFAULT_DATASTORE,
            "type": "datablock" if "size" in data else "os",
            "persistent": True,
            "sparse": not template.is_thick,
            **data,
        }
        return self._image_service([image])

    def _data_options(self, path: str, template: DataVolumeTemplate, stack: contextlib.ExitStack) -> dict[str, Any]:
        """Return the options of ``image`` for the data of a template."""
        source = template.source
        if isinstance(source, ClaimImport):
            return {"clone_from": source.name}
        if isinstance(source, HttpImport):
            ca_path = self._ca_file(source.ca, stack)
            return {"url": source.url, "headers": self._headers(source) or None, "ca_path": ca_path}
        if isinstance(source, RegistryImport):
            return {"path": self._pulled(path, source, self._ca_file(source.ca, stack))}
        return {"size": f"{-(-(template.size or 0) // MIB)}", "format": "raw"}

    def _pulled(self, path: str, source: RegistryImport, ca_path: str | None) -> str:
        """Return the path of the disk in a container image, which is pulled first."""
        user = self._user(source.credentials)
        request = parse_request(
            {
                "image": source.url.replace("docker://", "", 1),
                "image_pull_policy": None,
                "path": None,
                "architecture": None,
                "pull_secret": None if user is None else dict(zip(("username", "password"), user)),
                "insecure": self._pull.insecure,
                "ca_path": ca_path or self._pull.ca_path,
            },
            f"{path}.spec.source.registry",
        )
        return self._cache.store.file(self._cache.obtain(request).checksum)

    def _headers(self, source: HttpImport) -> dict[str, str]:
        found = {}
        for line in source.headers:
            name, _separator, value = line.partition(":")
            found[name.strip()] = value.strip()
        user = self._user(source.credentials)
        if user is not None:
            token = base64.b64encode(":".join(user).encode()).decode()
            found["Authorization"] = f"Basic {token}"
        return found

    def _user(self, secret: str | None) -> tuple[str, str] | None:
        """Return the user and the password in a secret.

        :raises InvalidInput: the secret lacks one of them.
        """
        if secret is None:
            return None
        data = read_keyed_data(self._spec.secrets[secret])
        if _USER not in data or _PASSWORD not in data:
            raise InvalidInput("secrets", secret, f"a secret with the keys {_USER} and {_PASSWORD} is expected")
        return data[_USER].decode("utf-8", "replace"), data[_PASSWORD].decode("utf-8", "replace")

    def _ca_file(self, config_map: str | None, stack: contextlib.ExitStack) -> str | None:
        """Return the path of a file with all certificates of a config map. ``stack`` removes the file."""
        if config_map is None:
            return None
        data = b"\n".join(read_keyed_data(self._spec.config_maps[config_map]).values())
        with os_errors("make a file for certificates"):
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vmstore-ca-"))
            path = os.path.join(scratch, "ca.pem")
            with open(path, "wb") as file:
                file.write(data)
        return path


__all__ = ["DataVolumes"]
