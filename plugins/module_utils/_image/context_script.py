# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file context.sh of a context image: shell variables that OpenNebula's context packages source in the guest."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .._core.errors import InvalidInput
from .._core.records import dataclass
from .._model.mount_names import check_mount_point, check_mount_tag

#: The volume id by which the context packages find the image.
VOLUME_ID = "CONTEXT"
#: The name of the file in the image.
SCRIPT = "context.sh"

#: Upper bound of a variable in bytes, with its name. The packages export all variables, and Linux starts no program
#: with a longer one (execve(2): MAX_ARG_STRLEN).
LONGEST_VARIABLE = 128 * 1024 - 2
#: Upper bound of all variables in bytes, half of what a program gets at most with usual limits of the stack.
LONGEST_SCRIPT = 1024 * 1024

_HEADER = "# Context variables, written by granary.vmstore\n"

#: Variables that sh or bash don't assign, or that change what the shell or the dynamic linker does next.
_RESERVED = re.compile(
    "BASH.*|COMP_.*|COPROC|DIRSTACK|ENV|EPOCH(REALTIME|SECONDS)|EUID|FUNC(NAME|NEST)|GROUPS|HISTCMD|IFS|LD_.*|LINENO|"
    "OPT(ARG|ERR|IND)|PATH|PIPESTATUS|POSIXLY_CORRECT|PPID|PS[0-4]|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID"
)


@dataclass(frozen=True)
class ContextMount:
    """A virtiofs mount of the guest, which the context packages mount read-write."""

    tag: str
    mount_point: str


def check_name(option: str, name: str) -> str:
    """Return the name of a variable.

    :raises InvalidInput: the shell can't assign the variable, or needs it for itself.
    """
    if re.fullmatch("[A-Z][A-Z0-9_]*", name) is None or len(name) > 128:
        raise InvalidInput(option, name, "a name of 1 to 128 capital letters, digits and '_' is expected")
    if _RESERVED.fullmatch(name):
        raise InvalidInput(
            option, name, "the guest's shell needs this variable for itself, so another name is expected"
        )
    return name


def check_value(option: str, name: str, value: str) -> str:
    """Return the value of the variable ``name``. The errors don't contain the value, because it may be a secret.

    :raises InvalidInput: no variable of a program can have the value.
    """
    try:
        length = len(name) + len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{option}.{name}", "...", "a text in UTF-8 is expected") from error
    if "\0" in value:
        raise InvalidInput(f"{option}.{name}", "...", "a text without NUL is expected")
    if length > LONGEST_VARIABLE:
        accepted = f"name and value of at most {LONGEST_VARIABLE} bytes are expected, not {length}"
        raise InvalidInput(f"{option}.{name}", "...", accepted)
    return value


def mount_variables(mounts: tuple[ContextMount, ...]) -> dict[str, str]:
    """Return the variables by which the context packages mount virtiofs tags.

    :raises InvalidInput: a tag or a mount point that the packages can't carry.
    """
    variables = {}
    for number, mount in enumerate(mounts):
        point = check_mount_point("mounts.mount_point", mount.mount_point)
        if re.search(r"\s", point):
            accepted = "the context packages split the table of mounts at blanks, so a path without blanks is expected"
            raise InvalidInput("mounts.mount_point", point, accepted)
        variables[f"DISK{number}_MOUNT_TAG"] = check_mount_tag("mounts.mount_tag", mount.tag)
        variables[f"DISK{number}_MOUNT_POINT"] = point
    return variables


def context_script(variables: Mapping[str, str]) -> bytes:
    """Return the file that assigns ``variables``, whose names and values were checked.

    :raises InvalidInput: the file would be too long.
    """
    # A single quote ends the quotation, and is written in a quotation of another kind.
    lines = [f"{name}='" + variables[name].replace("'", "'\\''") + "'\n" for name in sorted(variables)]
    script = "".join([_HEADER, *lines]).encode()
    if len(script) > LONGEST_SCRIPT:
        accepted = f"variables of at most {LONGEST_SCRIPT} bytes in all are expected, not {len(script)}"
        raise InvalidInput("variables", "...", accepted)
    return script


def parse_script(script: bytes) -> dict[str, str]:
    """Return the variables that :func:`context_script` wrote, and none from another file."""
    text = script.decode("utf-8", "replace")
    if not text.startswith(_HEADER):
        return {}
    # With its anchor, the expression takes linear time for any text.
    found = re.findall(r"^([A-Z][A-Z0-9_]*)='((?:[^']|'\\'')*)'$", text, re.MULTILINE)
    return {name: value.replace("'\\''", "'") for name, value in found}


__all__ = [
    "LONGEST_SCRIPT",
    "LONGEST_VARIABLE",
    "SCRIPT",
    "VOLUME_ID",
    "ContextMount",
    "check_name",
    "check_value",
    "context_script",
    "mount_variables",
    "parse_script",
]
