# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images of the catalog."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ..._catalog.datastores import DATASTORES
from ..._catalog.images import IMAGES
from ..._catalog.vms import disks_of
from ..._core.arguments import ArgumentSpec
from ..._core.errors import DependencyNotFound
from ..catalog import CATALOG_OPTIONS, reading
from .attached import attachments

IMAGE_INFO_SPEC = ArgumentSpec({"name": {"type": "str"}, "datastore": {"type": "str"}}).merge(CATALOG_OPTIONS)


def image_info(options: Mapping[str, Any]) -> dict[str, object]:
    """Return every image, those of one datastore, or one by name or id. Each has the domains and the disks of VMs that
    use the image.

    :raises DependencyNotFound: the image or the datastore is missing.
    """
    with reading(options["catalog"]) as catalog:
        names = {one.id: one.name for one in DATASTORES.rows(catalog)}
        found = IMAGES.rows(catalog)
        name_of = {one.id: one.name for one in found}.get
        if options["datastore"] is not None:
            datastore = DATASTORES.find(catalog, options["datastore"])
            if datastore is None:
                raise DependencyNotFound(
                    f"datastore: there is no datastore {options['datastore']!r} in the catalog {options['catalog']}."
                )
            found = [one for one in found if one.datastore_id == datastore.id]
        if options["name"] is not None:
            one = IMAGES.find(catalog, options["name"])
            if one not in found:
                raise DependencyNotFound(
                    f"name: there is no image {options['name']!r} in the catalog {options['catalog']}."
                )
            found = [one]
        disks: dict[int, list[dict[str, object]]] = defaultdict(list)
        for used in disks_of(catalog):
            disks[used.image_id].append(used.as_dict())
        return {
            "images": [
                {
                    **one.as_dict(name_of),
                    "datastore": names.get(one.datastore_id),
                    "disks": disks[one.id],
                    "attachments": [attached.as_dict() for attached in attachments(catalog, image_id=one.id)],
                }
                for one in found
            ]
        }


__all__ = ["IMAGE_INFO_SPEC", "image_info"]
