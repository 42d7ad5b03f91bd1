# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a front-end's administrator configured for all datastores (spec: onestor-datastore, "Additional Configuration").

The files assign shell variables. They are read, not run: of each line ``NAME=value`` the value is taken as a shell would quote it.
"""

from __future__ import annotations

import os

from .._core import records
from .._core.errors import InvalidInput
from .._core.files import read_text
from .._driver.attributes import settings_of
from .._driver.base import Settings

#: Below the remotes directory; what a later file says counts.
FILES = ("etc/datastore/datastore.conf", "etc/datastore/fs/fs.conf")

#: The front-end's program that reads URLs, below the remotes directory.
DOWNLOADER = "datastore/downloader.sh"


def read_settings(remotes: str) -> Settings:
    """
    :raises InvalidInput: a quotation in one of the files has no end.
    """
    downloader = os.path.join(remotes, DOWNLOADER)
    values: dict[str, str] = {}
    for name in FILES:
        path = os.path.join(remotes, name)
        text = read_text(path)
        if text:
            values.update(assignments(path, text))
    settings = settings_of({name.lower(): value for name, value in values.items()})
    return records.replace(settings, downloader=downloader if os.access(downloader, os.X_OK) else None)


def assignments(path: str, text: str) -> dict[str, str]:
    """The variables in ``text``, which is that of the file ``path``."""
    import re  # few front-ends configure anything

    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", line)
        if match:
            found[match[1]] = _unquoted(path, match[2])
    return found


def _unquoted(path: str, value: str) -> str:
    import shlex

    words = shlex.shlex(value, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    try:
        return next(words, "")
    except ValueError as error:
        raise InvalidInput(path, value, "a quotation that ends on its line is expected") from error


__all__ = ["assignments", "read_settings"]
