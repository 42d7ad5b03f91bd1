# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values that a column of the catalog holds as JSON text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .._core.idmap import IdMap


def maps_to_text(maps: Sequence[IdMap] | None) -> str | None:
    """Id maps as a column holds them; ``None`` means that none are given, which isn't the same as an empty list."""
    return None if maps is None else json.dumps([one.as_dict() for one in maps])


def maps_from_text(text: str | None) -> tuple[IdMap, ...] | None:
    return None if text is None else tuple(IdMap(**one) for one in json.loads(text))


__all__ = ["maps_from_text", "maps_to_text"]
