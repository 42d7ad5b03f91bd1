# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for names and for references by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..._core.problems import Problems
from ..._model.volume_sources import KeyedData

#: A label (RFC 1123).
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
#: Upper bound of the characters of a label.
LONGEST_LABEL = 63


def require_label(problems: Problems, path: str, name: str) -> None:
    """Add a problem for a name that isn't a label."""
    if len(name) > LONGEST_LABEL or _LABEL.fullmatch(name) is None:
        problems.add(
            "name",
            path,
            name,
            f"1 to {LONGEST_LABEL} lower-case letters, digits and '-' are expected, not starting or ending with '-'",
        )


def require_different(problems: Problems, named: Iterable[tuple[str, str]], rule: str = "duplicate_name") -> None:
    """Add a problem for each value, given with its path, that stands there a second time."""
    first: dict[str, str] = {}
    for path, name in named:
        if name in first:
            problems.add(rule, path, name, f"another value than that of {first[name]} is expected")
        first.setdefault(name, path)


def require_data(problems: Problems, path: str, name: str | None, known: Mapping[str, KeyedData], option: str) -> None:
    """Add a problem for the name of a config map, secret or service account whose content is missing."""
    if name is not None and name not in known:
        problems.add("unknown_reference", path, name, f"a name in {option} is expected, which has the content")


__all__ = ["LONGEST_LABEL", "require_data", "require_different", "require_label"]
