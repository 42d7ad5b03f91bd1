# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Exports: the sources, such as ``nfs1:/images``, by which mount(8) finds a datastore."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from . import checks
from .errors import SimulatedDatastoreError
from .profiles import PROFILES, SQUASHES, choose


@dataclass(frozen=True)
class Source:
    """The options of mounts of *source*. If *profile* and *squash* are None, the version of NFS decides."""

    source: str
    client: str = "host1"
    profile: str | None = None
    squash: str | None = None
    anonymous_uid: int = 65534
    anonymous_gid: int = 65534

    def __post_init__(self) -> None:
        checks.text("source", self.source)
        if not self.source.isprintable() or " " in self.source:
            raise SimulatedDatastoreError(
                f"source: {self.source!r} isn't a text without blanks such as 'nfs1:/images'."
            )
        checks.name("client", self.client)
        if self.profile is not None:
            choose("profile", self.profile, list(PROFILES))
        if self.squash is not None:
            choose("squash", self.squash, SQUASHES)
        checks.whole("anonymous_uid", self.anonymous_uid, most=checks.MOST_ID)
        checks.whole("anonymous_gid", self.anonymous_gid, most=checks.MOST_ID)

    def mount(self, version: str | None, clients: list[str]) -> dict[str, Any]:
        """Return the parameters of a mount with this *version* of NFS (None: no version given).

        *clients* are the clients that have a mount.
        """
        if version is not None:
            checks.text("version", version)
        profile = self.profile or ("nfs3" if version is not None and version.startswith("3") else "nfs4.2")
        names = (self.client, *(f"{self.client}-{number}" for number in range(2, len(clients) + 2)))
        return {
            "client": next(name for name in names if name not in clients),
            "profile": profile,
            "squash": self.squash,
            "anonymous_uid": self.anonymous_uid,
            "anonymous_gid": self.anonymous_gid,
            "source": self.source,
        }


class Exports:
    """The exports of one datastore."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def __bool__(self) -> bool:
        return bool(self._sources)

    def set(self, **given: Any) -> dict[str, Any]:
        """Add or change an export; existing mounts stay as they are.

        Raises :class:`SimulatedDatastoreError`.
        """
        for key in given:
            choose("export", key, list(Source.__dataclass_fields__))
        if "source" not in given:
            raise SimulatedDatastoreError("source: give the source of the mount, such as 'nfs1:/images'.")
        source = Source(**given)
        self._sources[source.source] = source
        return asdict(source)

    def get(self, source: str) -> Source:
        return self._sources[choose("source", source, list(self._sources))]

    def delete(self, source: str) -> None:
        """Delete an export; existing mounts stay. Raises :class:`SimulatedDatastoreError`."""
        del self._sources[choose("source", source, list(self._sources))]

    def status(self) -> list[dict[str, Any]]:
        return [asdict(source) for source in self._sources.values()]


__all__ = ["Exports", "Source"]
