# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration for all datastores of a front-end (spec: onestor-datastore, "Additional Configuration").

The files assign shell variables. They are read, not run: each line ``NAME=value`` is a setting, with the quotation
rules of a shell.
"""

from __future__ import annotations

import os

from ..._core import records
from ..._core.errors import InvalidInput
from ..._core.files import read_text
from ..._driver.datastore.attributes import settings_of
from ..._driver.datastore.base import Settings

#: The configuration files below the remotes directory. A later file overrides the files before it.
FILES = ("etc/datastore/datastore.conf", "etc/datastore/fs/fs.conf")

#: Characters without a special meaning in a shell.
PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%+,-./:=@_")

#: The front-end's program that reads URLs, below the remotes directory.
DOWNLOADER = "datastore/downloader.sh"


def read_settings(remotes: str) -> Settings:
    """Return the settings of a front-end.

    :raises InvalidInput: a quotation in one of the files has no end.
    """
    downloader = os.path.join(remotes, DOWNLOADER)
    values: dict[str, str] = {}
    for name in FILES:
        path = os.path.join(remotes, name)
        values.update(parse_assignments(path, read_text(path)))
    settings = settings_of({name.lower(): value for name, value in values.items()})
    return records.replace(settings, downloader=downloader if os.access(downloader, os.X_OK) else None)


def parse_assignments(path: str, text: str) -> dict[str, str]:
    """Return the variables in ``text``.

    :arg path: the file with the text, for messages.
    """
    found = {}
    for line in text.splitlines():
        before, equals, value = line.partition("=")
        *words, name = before.split() or [""]
        if equals and before.endswith(name) and name.isascii() and name.isidentifier() and words in ([], ["export"]):
            found[name] = _unquote(path, value)
    return found


def _unquote(path: str, value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    inner = value[1:-1] if is_quoted else value
    if PLAIN.issuperset(inner.replace(" ", "") if is_quoted else inner):
        return inner
    import shlex  # most values need no shlex

    words = shlex.shlex(value, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    try:
        return next(words, "")
    except ValueError as error:
        raise InvalidInput(path, value, "a quotation that ends on its line is expected") from error


__all__ = ["parse_assignments", "read_settings"]
