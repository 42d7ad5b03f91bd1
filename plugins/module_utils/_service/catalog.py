# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services whose state is in the catalog. They plan on a copy, and plan again in the transaction that records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .._catalog.catalog import DEFAULT_LOCATION, DEFAULT_PATH, Catalog, catalog_exists, open_catalog, read_catalog
from .._core.arguments import ArgumentSpec
from .._core.paths import absolute
from .._core.plan import Plan
from .service import Service

CATALOG_OPTIONS = ArgumentSpec({"catalog": {"type": "path", "default": DEFAULT_PATH}})


class CatalogService(Service):
    """Plan on :attr:`catalog`. In the transaction, :attr:`catalog` is the catalog itself, before that a copy.

    An invalid request then creates nothing, and slow work holds no lock. Without a change, nothing is locked.
    """

    #: Whether a normal run creates a missing catalog. Otherwise a change fails without a catalog.
    create = False

    def __init__(self, path: str, datastore_location: str = DEFAULT_LOCATION) -> None:
        self.path = absolute("catalog", path)
        self.datastore_location = datastore_location
        self.missing = not catalog_exists(self.path)
        self._open: Catalog | None = None
        self._is_writing = False

    @property
    def catalog(self) -> Catalog:
        if self._open is None:
            self._open = read_catalog(self.path, missing_ok=True, datastore_location=self.datastore_location)
        return self._open

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock nothing, but read the catalog again in the next run."""
        try:
            yield
        finally:
            self._close()

    @contextlib.contextmanager
    def recording(self, plan: Plan) -> Iterator[Plan]:
        self._close()
        with (
            open_catalog(self.path, create=self.create, datastore_location=self.datastore_location) as catalog,
            catalog.transaction(),
        ):
            self._open, self._is_writing = catalog, True
            try:
                yield self.plan()
            finally:
                self._open, self._is_writing = None, False

    def refresh(self) -> bool:
        """Read the catalog again if another program changed it since the copy was read, and return whether one did.

        Comparing an old copy with the disk finds errors that never existed, such as images without data.
        """
        if self._is_writing or self._open is None or not catalog_exists(self.path):
            return False
        now = read_catalog(self.path, missing_ok=False)
        if all(
            now.execute(rows) == self._open.execute(rows)
            for rows in ("SELECT * FROM image ORDER BY id", "SELECT * FROM datastore ORDER BY id")
        ):
            now.close()
            return False
        self._close()
        self._open = now
        self.missing = False
        return True

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def reading(path: str) -> Catalog:
    """Return a copy of the catalog for an info module.

    :raises NotFound: there is no catalog.
    """
    return read_catalog(absolute("catalog", path), missing_ok=False)


__all__ = ["CATALOG_OPTIONS", "CatalogService", "reading"]
