# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The claims of a domain's volumes: images of the catalog (design: kubevirt-volumes, "Decided")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._catalog.catalog import catalog_exists, read_catalog
from ..._catalog.images import IMAGES
from ..._core.errors import DependencyNotFound, InvalidInput
from ..._core.paths import absolute
from ..._core.records import dataclass
from ..._model.image import Image

#: The formats of an image that a disk can have.
DISK_FORMATS = ("raw", "qcow2")


@dataclass(frozen=True)
class Claim:
    """An image that a volume uses.

    :arg path: the directory of an image of type ``filesystem``, else the file with the data.
    :arg format: ``raw``, ``qcow2``, or ``dir`` for a directory.
    """

    name: str
    path: str
    format: str
    persistent: bool
    read_only: bool

    @property
    def is_directory(self) -> bool:
        return self.format == "dir"


class Claims:
    """The images by name or id.

    :arg catalog: the path of the catalog on this host.
    :arg given: images as ``granary.vmstore.image_info`` returns them, for a host without the catalog.
    """

    def __init__(self, catalog: str, given: Sequence[Mapping[str, Any]] | None) -> None:
        self._catalog = absolute("catalog", catalog)
        self._given = None if given is None else [_read_given(place, one) for place, one in enumerate(given)]

    @property
    def are_given(self) -> bool:
        """Return whether the caller knows the images, and this host has no catalog of them."""
        return self._given is not None

    def find(self, path: str, reference: str) -> Claim:
        """Return an image.

        :arg path: the place of the claim in the declaration, for the error.
        :raises DependencyNotFound: there is no such image.
        """
        if self._given is not None:
            for name, claim in self._given:
                if reference in (name, claim.name):
                    return _with_known_format(path, claim)
            raise DependencyNotFound(f"{path}: there is no image {reference!r} in the option 'claims'.")
        image = None
        if catalog_exists(self._catalog):
            with read_catalog(self._catalog, missing_ok=False) as catalog:
                image = IMAGES.find(catalog, reference)
        if image is None:
            raise DependencyNotFound(
                f"{path}: there is no image {reference!r} in the catalog {self._catalog}; on a host without the "
                "catalog, the option 'claims' has the images."
            )
        return _with_known_format(path, _claim_of(image))

    def by_path(self) -> dict[str, Claim]:
        """Return the images by their paths. Without a catalog, there are none."""
        if self._given is not None:
            found = [claim for _id, claim in self._given]
        elif catalog_exists(self._catalog):
            with read_catalog(self._catalog, missing_ok=False) as catalog:
                found = [_claim_of(image) for image in IMAGES.rows(catalog)]
        else:
            found = []
        return {claim.path: claim for claim in found}


def _with_known_format(path: str, claim: Claim) -> Claim:
    """Return a claim that a volume can have.

    The format of an image that no volume uses is never checked.

    :raises InvalidInput: QEMU can't have an image of this format as a disk here.
    """
    formats = (*DISK_FORMATS, "dir")
    if claim.format not in formats:
        raise InvalidInput(f"{path}.format", claim.format, f"one of {', '.join(formats)} is expected")
    return claim


def _claim_of(image: Image) -> Claim:
    return Claim(image.name, image.path, image.format, image.persistent, image.read_only)


def _read_given(place: int, data: Mapping[str, Any]) -> tuple[str, Claim]:
    """Return the id and the claim in one element of the option ``claims``."""
    option = f"claims[{place}]"
    found = {name: data.get(name) for name in ("id", "name", "path", "format", "persistent", "read_only")}
    for name, value in found.items():
        kind = {"id": int, "persistent": bool, "read_only": bool}.get(name, str)
        if not isinstance(value, kind):
            raise InvalidInput(
                f"{option}.{name}", value, "an image is expected as granary.vmstore.image_info returns it"
            )
    identity = str(found.pop("id"))
    absolute(f"{option}.path", str(found["path"]))
    return identity, Claim(**found)  # type: ignore[arg-type]


__all__ = ["DISK_FORMATS", "Claim", "Claims"]
