# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions that record an export of an image in the catalog on this host.

Their transactions are short: libvirt and the guest work outside of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from ..._catalog.catalog import Catalog, open_catalog
from ..._core.errors import StaleState
from ..._core.plan import Action
from ..image.attached import ImageAttachment, record_attachment, remove_attachment


def attach_action(
    path: str, before: Sequence[ImageAttachment], after: ImageAttachment, resolve: Callable[[Catalog], ImageAttachment]
) -> Action:
    """Return the action that records the attachment of an image.

    It runs before the domain gets the device, because another host could give the image away meanwhile.

    :arg path: the catalog.
    :arg before: the attachments that this one replaces.
    :arg resolve: returns ``after`` from the catalog. The transaction calls it again, because another host may have been
        faster.
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
        _as_result(before),
        _as_result([after]),
        record,
        functools.partial(_exchange, path, [after], before),
    )


def detach_action(path: str, attached: Sequence[ImageAttachment]) -> Action:
    """Return the action that removes attachments, once the domain has no device of them any more."""
    record, undo = functools.partial(_exchange, path, attached, []), functools.partial(_exchange, path, [], attached)
    return Action("release image", _subject(attached[0]), _as_result(attached), None, record, undo)


def _exchange(path: str, removed: Sequence[ImageAttachment], recorded: Sequence[ImageAttachment]) -> None:
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        for one in removed:
            remove_attachment(catalog, one.image_id, one.host, one.domain)
        for one in recorded:
            record_attachment(catalog, one)


def _subject(attachment: ImageAttachment) -> str:
    return f"image {attachment.image!r} on host {attachment.host!r}"


def _as_result(attached: Sequence[ImageAttachment]) -> dict[str, object] | None:
    return {one.domain: one.as_dict() for one in attached} or None


__all__ = ["attach_action", "detach_action"]
