# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalog's datastores."""

from __future__ import annotations

import functools
import json

from .._core.paths import absolute
from .._core.plain import is_integer
from .._model.datastore import Datastore
from .columns import is_text, read_list, read_texts
from .table import Table

FIRST_ID = 100

DATASTORES = Table(
    "datastore",
    Datastore,
    readers={
        "base_path": functools.partial(absolute, "base_path"),
        "clusters": functools.partial(read_list, is_integer),
        "attributes": read_texts,
        **dict.fromkeys(("safe_dirs", "restricted_dirs", "bridge_list"), functools.partial(read_list, is_text)),
    },
    writers=dict.fromkeys(("clusters", "safe_dirs", "restricted_dirs", "bridge_list", "attributes"), json.dumps),
)


def default_datastores(location: str) -> list[Datastore]:
    """Return the three default datastores of a new catalog, in the directory ``location``."""
    return [
        Datastore(0, "system", "system", None, "local", f"{location}/0"),
        Datastore(1, "default", "image", "fs", "local", f"{location}/1"),
        Datastore(2, "files", "file", "fs", "local", f"{location}/2"),
    ]


__all__ = ["DATASTORES", "FIRST_ID", "default_datastores"]
