# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The syntax of a front-end's configuration: ``NAME = value`` and ``NAME = [ NAME = value, ... ]``, with comments from
``#`` to the end of the line.
"""

from __future__ import annotations

import re

from ..._core.errors import InvalidInput

#: A comment, or a value between quotes.
COMMENT_OR_QUOTED = re.compile(r'#[^\n]*|"(?:\\.|[^"\\])*"', re.DOTALL)

#: A value in a vector, with its name. A value between quotes can have commas and brackets.
VALUE = re.compile(r'\s*(\w+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s",\[\]]*))\s*(,|\])', re.DOTALL)

#: Upper bound of the characters of an invalid text in a message.
LONGEST_SHOWN = 40


def parse_vector(path: str, text: str, name: str) -> dict[str, str]:
    """Return the values of the vector ``name`` by their names in capitals; an empty dictionary without the vector.

    :arg path: the file with the text, for messages.
    :raises InvalidInput: the vector has another form.
    """
    text = COMMENT_OR_QUOTED.sub(lambda match: "" if match[0].startswith("#") else match[0], text)
    begin = re.search(rf"^\s*{name}\s*=\s*\[", text, re.MULTILINE | re.IGNORECASE)
    found: dict[str, str] = {}
    position = begin.end() if begin else 0
    while begin:
        match = VALUE.match(text, position)
        if match is None:
            accepted = f"{name} = [ NAME = value, ... ] is expected"
            raise InvalidInput(path, text[position : position + LONGEST_SHOWN].strip(), accepted)
        key, quoted, word, end = match.groups()
        found[key.upper()] = word if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = match.end()
        if end == "]":
            break
    return found


__all__ = ["parse_vector"]
