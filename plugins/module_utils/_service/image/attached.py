# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The attachments in the catalog, each with the values in effect."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..._catalog.attachments import ATTACHMENTS
from ..._catalog.catalog import Catalog
from ..._catalog.images import IMAGES
from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.plain import Mismatch, from_plain, to_plain
from ..._core.records import dataclass, fields, replace
from ..._model.attachment import Attachment
from ..._model.idmap import IdMap, id_maps_from_data
from ..._model.mount_names import check_mount_point, check_mount_tag
from ..._model.names import check_domain, check_host, check_name


@dataclass(frozen=True)
class ImageAttachment:
    """An image in a domain, with the values in effect. A value of the export precedes the image's value, which
    precedes the default.
    """

    image_id: int
    image: str
    source: str
    persistent: bool
    read_only: bool
    mount_tag: str
    mount_point: str
    uid_map: tuple[IdMap, ...] | None
    gid_map: tuple[IdMap, ...] | None
    host: str
    domain: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for a module's result."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImageAttachment:
        """Return the attachment that :meth:`as_dict` converted to ``data``. The data comes from a playbook.

        :raises InvalidInput: a key is missing or unknown, or a value is invalid.
        """
        accepted = "the value that granary.vmstore.image_attachment returned is expected"
        if not isinstance(data, Mapping) or set(data) != {field.name for field in fields(cls)}:
            given = ", ".join(sorted(map(str, data))) if isinstance(data, Mapping) else type(data).__name__
            raise InvalidInput("attachment", given, accepted)
        maps = {name: functools.partial(id_maps_from_data, f"attachment.{name}") for name in ("uid_map", "gid_map")}
        try:
            found = from_plain(cls, data, maps)
        except Mismatch as error:
            raise InvalidInput(f"attachment.{error.path}", error.value, accepted) from error
        check_name("attachment.image", found.image)
        check_mount_tag("attachment.mount_tag", found.mount_tag)
        check_host("attachment.host", found.host)
        check_domain("attachment.domain", found.domain)
        source = absolute("attachment.source", found.source)
        return replace(found, source=source, mount_point=check_mount_point("attachment.mount_point", found.mount_point))


def record_attachment(catalog: Catalog, attachment: ImageAttachment) -> None:
    """Record the attachment, or its new values. A repetition changes nothing."""
    ATTACHMENTS.put(
        catalog, Attachment(**{field.name: getattr(attachment, field.name) for field in fields(Attachment)})
    )


def remove_attachment(catalog: Catalog, image_id: int, host: str, domain: str) -> bool:
    """Remove the attachment. Return ``False`` when the attachment is missing."""
    existed = bool(ATTACHMENTS.rows(catalog, image_id=image_id, host=host, domain=domain))
    ATTACHMENTS.delete(catalog, image_id, host, domain)
    return existed


def attachments(
    catalog: Catalog, *, host: str | None = None, domain: str | None = None, image_id: int | None = None
) -> list[ImageAttachment]:
    """Return the attachments to a domain, on a host or of an image; several conditions must all be met."""
    found = []
    for row in ATTACHMENTS.rows(catalog, image_id=image_id, host=host, domain=domain):
        image = IMAGES.find(catalog, row.image_id)
        if image is not None:  # the image is always found, because the attachment refers to it
            effective = {field.name: getattr(row, field.name) for field in fields(Attachment)}
            found.append(ImageAttachment(image=image.name, source=image.path, persistent=image.persistent, **effective))
    return found


__all__ = ["ImageAttachment", "attachments", "record_attachment", "remove_attachment"]
