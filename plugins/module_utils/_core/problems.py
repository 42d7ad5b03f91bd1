# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Problems of a declaration, which are collected so that the user gets all of them at once."""

from __future__ import annotations

from .errors import InvalidDeclaration
from .records import dataclass
from .secrets import withhold


@dataclass(frozen=True)
class Problem:
    """An invalid part of a declaration.

    :arg rule: the short name of the broken rule, which stays the same when its sentence is worded better.
    :arg path: the place in the declaration, such as ``disks[2].lun.bus``.
    :arg value: the offending value; ``None`` is a part that is missing. It is never a secret.
    :arg accepted: the accepted values, as the rest of a sentence.
    """

    rule: str
    path: str
    value: object
    accepted: str


class Problems:
    """A collection of problems."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, rule: str, path: str, value: object, accepted: str) -> None:
        """Add a problem. The arguments are the fields of :class:`Problem`. A password in a URL is withheld."""
        self.found.append(Problem(rule, path, withhold(value) if isinstance(value, str) else value, accepted))

    def raise_any(self) -> None:
        """Raise one error for all problems.

        :raises InvalidDeclaration: there are problems.
        """
        if self.found:
            raise InvalidDeclaration(self.found)


__all__ = ["Problem", "Problems"]
