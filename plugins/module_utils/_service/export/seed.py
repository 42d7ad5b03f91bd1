# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The seed of a domain (cloud-init's NoCloud), which lists the mounts of its exports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from ..._core.errors import Conflict
from ..._core.files import remove_durably, write_atomic
from ..._core.plain import to_plain
from ..._core.plan import Action
from ..._image.nocloud_seed import Seed, SeedMount, read_seed, seed_bytes
from ..._libvirt.connection import Domain, Hypervisor


def seed_action(
    hypervisor: Hypervisor,
    domain: Domain,
    path: str,
    replace_mounts: Callable[[tuple[SeedMount, ...]], Iterable[SeedMount]],
) -> Action | None:
    """Return the action that writes the seed at ``path``; ``None`` where the seed needs no change.

    :arg replace_mounts: returns the mounts to write for those in the seed now. They are sorted by mount point.
    :raises Conflict: the file is no seed, or the seed of another domain.
    """
    old = read_seed(path)
    if old is not None and old.instance_id != domain.uuid:
        other = hypervisor.find_domain(old.instance_id)
        if other is not None:
            raise Conflict(
                f"seed: {path!r} is the seed of the domain {other.name!r}; the domain {domain.name!r} needs one of its "
                "own."
            )
    # The seed of a domain that was undefined has the mounts of that domain, even if this domain has its name.
    mounts = old.mounts if old is not None and old.instance_id == domain.uuid else ()
    new = Seed(domain.uuid, tuple(sorted(replace_mounts(mounts), key=lambda mount: mount.mount_point)))
    if new == old:
        return None

    def restore() -> None:
        if old is None:
            remove_durably(path)
        else:
            write_atomic(path, seed_bytes(old.instance_id, old.mounts))

    return Action(
        "write seed",
        path,
        None if old is None else _as_result(old),
        _as_result(new),
        functools.partial(write_atomic, path, seed_bytes(new.instance_id, new.mounts), mode=0o600),
        restore,
    )


def _as_result(seed: Seed) -> dict[str, object]:
    return {mount.tag: to_plain(mount) for mount in seed.mounts}


__all__ = ["seed_action"]
