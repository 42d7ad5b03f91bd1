# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exported directory: the one that the options name, or the directory of the image that they name."""

from __future__ import annotations

import functools

from ..._catalog.catalog import Catalog, read_catalog
from ..._catalog.images import IMAGES
from ..._core.errors import InvalidInput
from ..._core.paths import absolute, check_allowed
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._driver.datastore.image_paths import SAFE_DIRS, SYSTEM_DIRS
from ..image.attached import ImageAttachment, attachments, remove_attachment
from ..image.attachment import resolve_attachment
from .catalog_attachment import attach_action
from .identity import IdMaps
from .options import ExportSpec
from .record import resolve_source


@dataclass(frozen=True)
class Export:
    """A directory to export, and how.

    :arg option: the option that names the directory, for messages.
    :arg attachment: the image in the domain; ``None`` for a directory that is no image.
    """

    option: str
    source: str
    mount_tag: str
    mount_point: str | None
    read_only: bool
    uid_map: IdMaps | None
    gid_map: IdMaps | None
    attachment: ImageAttachment | None = None

    @classmethod
    def of_attachment(cls, option: str, found: ImageAttachment) -> Export:
        return cls(
            option,
            found.source,
            found.mount_tag,
            found.mount_point,
            found.read_only,
            found.uid_map,
            found.gid_map,
            found,
        )

    @property
    def image(self) -> str | None:
        return None if self.attachment is None else self.attachment.image

    def __str__(self) -> str:
        return repr(self.source) if self.attachment is None else f"the image {self.image!r} ({self.source})"


def resolve_export(plan: Plan, spec: ExportSpec, domain: str, defined: set[str]) -> tuple[Export, list[Action]]:
    """Return what to export, and the action that records an image's attachment in the catalog, where it is missing.

    :arg domain: name of the domain.
    :arg defined: the names of all domains of this host.
    :raises PathNotAllowed: the directory can't be exported.
    :raises InvalidInput: the attachment is that of another domain.
    """
    if spec.source is not None:
        return _of_source(spec, spec.source), []
    if spec.attachment is not None:
        return _of_attachment(spec.attachment, domain), []
    return _of_image(plan, spec, str(spec.image), domain, defined)


def _of_source(spec: ExportSpec, path: str) -> Export:
    source = absolute("source", resolve_source(path))
    check_allowed("source", source, safe=[*SAFE_DIRS, *spec.own_dirs], restricted=SYSTEM_DIRS)
    return Export(
        "source", source, str(spec.mount_tag), spec.mount_point, bool(spec.read_only), spec.uid_map, spec.gid_map
    )


def _of_attachment(attachment: ImageAttachment, domain: str) -> Export:
    if attachment.domain != domain:
        raise InvalidInput(
            "attachment.domain", attachment.domain, f"the attachment to the domain {domain!r} is expected"
        )
    # The front-end has compared the path with the SAFE_DIRS of the datastore, which the catalog on the front-end has.
    check_allowed("attachment.source", attachment.source, safe=[attachment.source], restricted=SYSTEM_DIRS)
    return Export.of_attachment("attachment", attachment)


def _of_image(plan: Plan, spec: ExportSpec, image: str, domain: str, defined: set[str]) -> tuple[Export, list[Action]]:
    with read_catalog(spec.catalog, missing_ok=False) as view:  # a copy in memory
        recorded = _attachments_of_image(image, spec.host, view)
        before = [one for one in recorded if one.domain == domain]
        # Only this host has the list of its domains.
        stale = [one for one in recorded if one.domain not in defined]
        for one in stale:
            remove_attachment(view, one.image_id, one.host, one.domain)
            plan.warnings.append(
                f"The domain {one.domain!r}, which this host no longer has, was attached to the image {one.image!r}; "
                "that attachment is removed."
            )
        found = _resolve_image(spec, image, domain, view)
    export = Export.of_attachment("image", found)
    if before == [found] and not stale:
        return export, []
    resolve = functools.partial(_resolve_image, spec, image, domain)
    return export, [attach_action(spec.catalog, [*before, *stale], found, resolve)]


def _attachments_of_image(name: str, host: str, view: Catalog) -> list[ImageAttachment]:
    image = IMAGES.find(view, name)
    return [] if image is None else attachments(view, host=host, image_id=image.id)


def _resolve_image(spec: ExportSpec, image: str, domain: str, catalog: Catalog) -> ImageAttachment:
    return resolve_attachment(
        catalog,
        image,
        spec.host,
        domain,
        mount_tag=spec.mount_tag,
        mount_point=spec.mount_point,
        read_only=spec.read_only,
        uid_map=spec.uid_map,
        gid_map=spec.gid_map,
    )


def foretell_device(spec: ExportSpec) -> dict[str, object]:
    """Return the values of the device that are known without libvirt, and without the image in the catalog."""
    fixed: dict[str, object] = {"read_only": bool(spec.read_only)}
    if spec.source is not None:
        places = {"source": spec.source, "mount_tag": spec.mount_tag, "mount_point": spec.mount_point}
        return {**fixed, "image": None, **places}
    if spec.attachment is not None:
        return _known_values(spec.attachment)
    with read_catalog(spec.catalog, missing_ok=True) as view:
        if IMAGES.find(view, str(spec.image)) is not None:
            return _known_values(_resolve_image(spec, str(spec.image), spec.domain, view))
        number = view.next_id("image")
    return {
        **fixed,
        "image": spec.image,
        "source": None,
        "mount_tag": spec.mount_tag or f"one-{number}",
        "mount_point": spec.mount_point or f"/mnt/one-fs-{number}",
    }


def _known_values(attachment: ImageAttachment) -> dict[str, object]:
    names = ("image", "source", "mount_tag", "mount_point", "read_only")
    return {name: getattr(attachment, name) for name in names}


__all__ = ["Export", "foretell_device", "resolve_export"]
