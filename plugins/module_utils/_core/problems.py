# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Problems of a declaration, which are collected so that the user gets all of them at once."""

from __future__ import annotations

from .errors import LONGEST_SHOWN, InvalidDeclaration, print_value
from .records import dataclass
from .secrets import withhold

#: Upper bound of the bits of a number in JSON that every reader supports.
_MOST_BITS = 63
#: Upper bound of the problems that are collected. A declaration can have a hundred thousand.
MOST_PROBLEMS = 1000
#: Upper bound of the characters of a path. A key of the user is a part of a path.
_LONGEST_PATH = 400


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

    def as_dict(self) -> dict[str, object]:
        """Return plain data for a result. A long value is cut."""
        return {"rule": self.rule, "path": self.path, "value": _plain(self.value), "accepted": self.accepted}


def _plain(value: object) -> object:
    """Return a value as JSON has it. A long text is cut, and anything but a text, a number or a flag is printed."""
    if value is None or (isinstance(value, int) and value.bit_length() <= _MOST_BITS):
        return value
    text = value if isinstance(value, str) else print_value(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


class Problems:
    """A collection of the first :data:`MOST_PROBLEMS` problems."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, rule: str, path: str, value: object, accepted: str) -> None:
        """Add a problem. The arguments are the fields of :class:`Problem`. A password in a URL is withheld, and a long
        path is cut.
        """
        if len(self.found) >= MOST_PROBLEMS:
            return
        path = path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
        self.found.append(Problem(rule, path, withhold(value) if isinstance(value, str) else value, accepted))

    def raise_any(self) -> None:
        """Raise one error for all problems.

        :raises InvalidDeclaration: there are problems.
        """
        if self.found:
            raise InvalidDeclaration(self.found)


__all__ = ["Problem", "Problems"]
