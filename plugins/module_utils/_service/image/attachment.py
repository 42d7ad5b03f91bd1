# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The attachments of images to domains (spec: virtiofs-datastore, "Usage" and "Considerations").

These rules hold for all hosts of a site, because the catalog has all attachments. The export of one host can't check
them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.catalog import Catalog
from ..._catalog.datastores import DATASTORES
from ..._catalog.images import IMAGES
from ..._core.arguments import ArgumentSpec
from ..._core.errors import CatalogFailed, Conflict, DependencyNotFound, InvalidInput, UnsupportedAction
from ..._core.plan import Action, Plan
from ..._driver.datastore.image_paths import check_image_path, protected_paths
from ..._model.idmap import ID_MAP_OPTION, IdMap, read_id_maps
from ..._model.image import Image
from ..._model.mount_names import check_mount_point, check_mount_tag
from ..._model.names import check_domain, check_host
from ..catalog import CATALOG_OPTIONS, CatalogService
from .attached import ImageAttachment, attachments, record_attachment, remove_attachment

IMAGE_ATTACHMENT_SPEC = ArgumentSpec(
    {
        "image": {"type": "str", "required": True},
        "host": {"type": "str", "required": True},
        "domain": {"type": "str", "required": True},
        "mount_tag": {"type": "str"},
        "mount_point": {"type": "str"},
        "read_only": {"type": "bool"},
        "uid_map": ID_MAP_OPTION,
        "gid_map": ID_MAP_OPTION,
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
).merge(CATALOG_OPTIONS)


def resolve_attachment(
    catalog: Catalog,
    image: str,
    host: str,
    domain: str,
    *,
    mount_tag: str | None = None,
    mount_point: str | None = None,
    read_only: bool | None = None,
    uid_map: tuple[IdMap, ...] | None = None,
    gid_map: tuple[IdMap, ...] | None = None,
) -> ImageAttachment:
    """Return the attachment of ``image`` (a name or an id) to ``domain`` of ``host`` as it would be recorded.

    A value that isn't given is the image's. Call this function in the transaction that records the attachment.

    :raises DependencyNotFound: the image is missing; :raises UnsupportedAction: the image isn't a directory.
    :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS no longer allow the image's directory.
    :raises InvalidInput: a value is invalid, or ``read_only`` is false for an image that is read-only.
    :raises Conflict: another domain uses the image and the image can't be shared, or another image has this tag or
        mount point in this domain.
    """
    check_host("host", host)
    check_domain("domain", domain)
    found = IMAGES.find(catalog, image)
    if found is None:
        raise DependencyNotFound(f"image: there is no image {image!r} in the catalog {catalog.path}.")
    if found.mount_tag is None or found.mount_point is None:
        raise UnsupportedAction(
            f"image: {found.name!r} is of type {found.type!r}, and only images of type 'filesystem' are attached as "
            "directories."
        )
    datastore = DATASTORES.find(catalog, found.datastore_id)
    if datastore is None:  # a damaged catalog may lack the datastore and its rules
        raise CatalogFailed(
            f"The catalog {catalog.path} lacks the datastore {found.datastore_id} of the image {found.name!r}, so "
            "restore it from a backup."
        )
    check_image_path(datastore, protected_paths(catalog.path, DATASTORES.rows(catalog)), found.path)
    if read_only is False and found.read_only:
        raise InvalidInput(
            "read_only", read_only, f"the image {found.name!r} is read-only, and so is every attachment of it"
        )
    wanted = ImageAttachment(
        image_id=found.id,
        image=found.name,
        source=found.path,
        persistent=found.persistent,
        read_only=found.read_only or bool(read_only),
        mount_tag=found.mount_tag if mount_tag is None else check_mount_tag("mount_tag", mount_tag),
        mount_point=check_mount_point("mount_point", found.mount_point if mount_point is None else mount_point),
        uid_map=found.uid_map if uid_map is None else uid_map,
        gid_map=found.gid_map if gid_map is None else gid_map,
        host=host,
        domain=domain,
    )
    _check_sharing(catalog, found, wanted)
    _check_domain_of(catalog, wanted)
    return wanted


def _check_sharing(catalog: Catalog, image: Image, wanted: ImageAttachment) -> None:
    if image.read_only and not image.persistent:
        return
    for other in ATTACHMENTS.rows(catalog, image_id=image.id):
        if (other.host, other.domain) != (wanted.host, wanted.domain):
            kind, remedy = (
                ("persistent", "non-persistent and read_only") if image.persistent else ("not read-only", "read_only")
            )
            raise Conflict(
                f"The image {image.name!r} is {kind} and the domain {other.domain!r} on the host {other.host!r} uses "
                f"it; only an image that is {remedy} can be shared."
            )


def _check_domain_of(catalog: Catalog, wanted: ImageAttachment) -> None:
    for other in attachments(catalog, host=wanted.host, domain=wanted.domain):
        if other.image_id == wanted.image_id:
            continue
        for name in ("mount_tag", "mount_point"):
            if getattr(other, name) == getattr(wanted, name):
                raise Conflict(
                    f"{name}: {getattr(wanted, name)!r} belongs to the image {other.image!r} in the domain "
                    f"{wanted.domain!r} on the host {wanted.host!r}, "
                    f"so the image {wanted.image!r} needs another one there."
                )


class ImageAttachmentService(CatalogService):
    """Plan the attachment of one image to one domain."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options["catalog"])
        self.image = options["image"]
        self.host = check_host("host", options["host"])
        self.domain = check_domain("domain", options["domain"])
        self.state = options["state"]
        self.overrides = {name: options[name] for name in ("mount_tag", "mount_point", "read_only")}
        self.overrides.update({name: read_id_maps(name, options[name]) for name in ("uid_map", "gid_map")})

    def plan(self) -> Plan:
        plan = Plan()
        found = IMAGES.find(self.catalog, self.image)
        before = None
        if found is not None:
            before = next(iter(attachments(self.catalog, image_id=found.id, host=self.host, domain=self.domain)), None)
        record: Callable[[], object]
        if self.state == "present":
            after = resolve_attachment(self.catalog, self.image, self.host, self.domain, **self.overrides)
            plan.result["attachment"] = after.as_dict()
            if before != after:
                record = functools.partial(record_attachment, self.catalog, after)
                plan.actions.append(self._action("update" if before else "add", after.image, before, after, record))
        elif before is not None:
            record = functools.partial(remove_attachment, self.catalog, before.image_id, self.host, self.domain)
            plan.actions.append(self._action("remove", before.image, before, None, record))
        return plan

    def _action(
        self,
        verb: str,
        image: str,
        before: ImageAttachment | None,
        after: ImageAttachment | None,
        record: Callable[[], object],
    ) -> Action:
        return Action(
            f"{verb} attachment",
            f"image {image!r} in domain {self.domain!r} on host {self.host!r}",
            None if before is None else before.as_dict(),
            None if after is None else after.as_dict(),
            record,
        )


__all__ = ["IMAGE_ATTACHMENT_SPEC", "ImageAttachmentService", "resolve_attachment"]
