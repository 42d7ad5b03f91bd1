# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the catalog on this host records of an export.

Its transactions are short: nobody waits in one for libvirt or for a guest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from ..._catalog.catalog import Catalog, open_catalog
from ..._core.errors import StaleState
from ..._core.plan import Action
from ..image.attachment import ImageAttachment, record_attachment, remove_attachment


def claim_action(
    path: str, before: Sequence[ImageAttachment], after: ImageAttachment, resolve: Callable[[Catalog], ImageAttachment]
) -> Action:
    """Claim an image. To be done before the domain gets the device: without a claim, another host could give it away as
    well.

    :arg path: the catalog.
    :arg before: the claims that this one replaces.
    :arg resolve: what ``after`` came from; asked again in the transaction, because another host may have been faster.
    """

    def record() -> None:
        with open_catalog(path, create=False) as catalog, catalog.transaction():
            for one in before:
                remove_attachment(catalog, one.image_id, one.host, one.domain)
            if resolve(catalog) != after:
                raise StaleState(
                    f"The image {after.image!r} was changed in the catalog {path} while the module was running; run it "
                    "again."
                )
            record_attachment(catalog, after)

    return Action(
        "claim image",
        _subject(after),
        _described(before),
        _described([after]),
        record,
        functools.partial(_exchange, path, [after], before),
    )


def release_action(path: str, claims: Sequence[ImageAttachment]) -> Action:
    """Give images back. To be done once the domain has no device of them any more."""
    record, undo = functools.partial(_exchange, path, claims, []), functools.partial(_exchange, path, [], claims)
    return Action("release image", _subject(claims[0]), _described(claims), None, record, undo)


def _exchange(path: str, removed: Sequence[ImageAttachment], recorded: Sequence[ImageAttachment]) -> None:
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        for one in removed:
            remove_attachment(catalog, one.image_id, one.host, one.domain)
        for one in recorded:
            record_attachment(catalog, one)


def _subject(claim: ImageAttachment) -> str:
    return f"image {claim.image!r} on host {claim.host!r}"


def _described(claims: Sequence[ImageAttachment]) -> dict[str, object] | None:
    return {one.domain: one.as_dict() for one in claims} or None


__all__ = ["claim_action", "release_action"]
