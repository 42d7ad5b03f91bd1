# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The risks of a shared directory for the users of this host and the guest. A sentence for each risk has the remedy."""

from __future__ import annotations

import os
import stat

from .virtiofsd.wrapper import Found, Refused, check, identify


def share_risks(found: Found, *, read_only: bool) -> list[str]:
    """Return the risks of sharing the directory ``found`` with a guest.

    :arg read_only: whether the guest can't write.
    """
    risks = []
    weak = found.weakness
    if weak is not None:
        risks.append(
            f"Others than root can put something else in the place of {found.path!r}, because {weak.path!r} "
            f"{weak.reason}; the domain then doesn't start. Keep it in a directory that only root can change."
        )
    if not read_only and not os.fstatvfs(found.descriptor).f_flag & os.ST_NOSUID and _is_open_to_all(found.path):
        risks.append(
            f"The guest can make setuid programs in {found.path!r}, and users of this host who run one get ids of the "
            f"guest, because the file system on {identify(found).mount_point!r} isn't mounted with nosuid. Mount it "
            "with nosuid, or keep the users of this host out of a directory above. With 'subid: per_domain', these ids "
            "are at least no other guest's."
        )
    return risks


def directory_risks(path: str, *, read_only: bool) -> list[str]:
    """Return the risks of a directory that is shared already. If the directory is missing or was replaced, that is
    the only risk.
    """
    try:
        found = check(path)
    except Refused as error:
        return [f"The next start of the domain is refused, because {error}."]
    try:
        return share_risks(found, read_only=read_only)
    finally:
        found.close()


def _is_open_to_all(path: str) -> bool:
    """Return whether every user of this host may enter the directories above ``path``."""
    parts = path.split("/")[:-1]
    return all(os.stat("/".join(parts[:depth]) or "/").st_mode & stat.S_IXOTH for depth in range(1, len(parts) + 1))


__all__ = ["directory_risks", "share_risks"]
