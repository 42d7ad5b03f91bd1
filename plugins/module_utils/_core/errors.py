# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The error tree. Errors are raised below and caught once per face (module, driver script), which prints them.

A message is one sentence: the refused action, the offending value, and the accepted values.
"""

from __future__ import annotations

import errno

from .records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import TypeVar

    from .problems import Problem

    E = TypeVar("E", bound="VmstoreError")

#: Upper bound of the characters of an offending value in a message.
LONGEST_SHOWN = 200

#: Error numbers of a full file system and of an exhausted quota.
FULL = (errno.ENOSPC, errno.EDQUOT)


class VmstoreError(Exception):
    """The base of all errors of this collection. ``str(error)`` is the sentence for the user."""

    def with_message(self: E, message: str) -> E:
        """Return an error of the same class and with the same fields, but with another message."""
        kind = self.__class__
        other = kind.__new__(kind, message)
        other.__dict__.update(self.__dict__)
        return other


class InvalidInput(VmstoreError):
    """A value from the user is invalid.

    :arg option: the option's name as the user wrote it.
    :arg value: the offending value; ``None`` is an option that is missing.
    :arg accepted: the accepted values, as the rest of a sentence.
    """

    def __init__(self, option: str, value: object, accepted: str) -> None:
        from .secrets import withhold  # a mistyped URL, or a URL in another option, still contains its password

        shown = repr(withhold(value)) if isinstance(value, str) else withhold(print_value(value))
        if len(shown) > LONGEST_SHOWN:
            shown = f"{shown[:LONGEST_SHOWN]}... ({len(shown)} characters)"
        super().__init__(
            f"{option} is missing: {accepted}." if value is None else f"{option}: {shown} is not accepted: {accepted}."
        )
        self.option = option
        self.value = value
        self.accepted = accepted


class InvalidDeclaration(VmstoreError):
    """Parts of a declaration are invalid. The sentence names all of them.

    :arg problems: the :class:`Problem` of each part.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        sentences = [str(InvalidInput(one.path, one.value, one.accepted)) for one in problems]
        super().__init__(" ".join(sentences))
        self.problems = tuple(problems)


class PartlyDone(VmstoreError):
    """A part of the work is done and stays.

    :arg plan: the :class:`Plan` that was done.
    """

    def __init__(self, message: str, plan: object) -> None:
        super().__init__(message)
        self.plan = plan


class PathNotAllowed(InvalidInput):
    """A path outside SAFE_DIRS or inside RESTRICTED_DIRS."""


class Conflict(VmstoreError):
    """The desired state is valid but collides with an existing object, which the message names."""


class SharedDirectory(Conflict):
    """Two hosts have the same directory, which must be two directories for the action."""


class UnsupportedAction(VmstoreError):
    """An action that a driver, or the host's software, can't do."""


class NotFound(VmstoreError):
    """An object that is referred to by name or id doesn't exist."""


class DependencyMissing(VmstoreError):
    """An object is missing that an earlier task of the same play may create, such as a package, a datastore or a
    domain.

    In check mode, the earlier task creates nothing.
    """


class DependencyNotFound(DependencyMissing, NotFound):
    """An object that is referred to by name or id is missing, and an earlier task may create it."""


class NoSpace(VmstoreError):
    """A file system is full (ENOSPC) or a quota is used up (EDQUOT)."""


class FileAccessFailed(VmstoreError):
    """The operating system refused a file operation for another reason than space."""


class CommandFailed(VmstoreError):
    """A command could not be run, ran too long, or ended with another exit code than expected."""


class CommandMissing(CommandFailed):
    """A command is not installed."""


class TimedOut(CommandFailed):
    """A command or a call did not end before its deadline, and was stopped."""


class HostUnreachable(CommandFailed):
    """Another host can't be used: it doesn't answer, refuses the user, or lacks Python."""


class TransferFailed(VmstoreError):
    """Bytes from another host are missing, all or a part of them."""


class LockTimeout(VmstoreError):
    """A lock was not free before its deadline."""


class LibvirtFailed(VmstoreError):
    """The libvirt daemon can't be reached, or refused a call."""


class LibvirtMissing(DependencyMissing, LibvirtFailed):
    """The libvirt daemon, or its Python library, is missing."""


class FrontEndFailed(VmstoreError):
    """The front-end can't be reached, or refused a call."""


class CatalogFailed(VmstoreError):
    """The catalog can't be opened, read or written."""


class StaleState(VmstoreError):
    """A checked state has changed before it was used."""


def print_value(value: object) -> str:
    """Return a value in Python's notation. Python refuses to print a number of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "<a number with too many digits>"


def printable(text: str) -> str:
    """Return a text of another host or program without line ends and control characters for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def from_os_error(error: OSError, doing: str) -> VmstoreError:
    """Return the error for an ``OSError``. ``doing`` is the attempted action, such as ``write /etc/subuid``."""
    if error.errno in FULL:
        return NoSpace(f"Could not {doing}: {error.strerror}. Nothing was changed.")
    return FileAccessFailed(f"Could not {doing}: {error.strerror or error}.")


def missing_command(name: str, package: str | None = None) -> CommandMissing:
    """Return the error about a command that is not installed. ``package`` is the end of the sentence."""
    remedy = f": install the package {package}" if package else ""
    return CommandMissing(f"The command {name!r} is not installed on this host{remedy}.")


class os_errors:
    """Convert an ``OSError`` in a block to the error that :func:`from_os_error` returns."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise from_os_error(error, self._doing) from error


__all__ = [
    "FULL",
    "CatalogFailed",
    "CommandFailed",
    "CommandMissing",
    "Conflict",
    "DependencyMissing",
    "DependencyNotFound",
    "FileAccessFailed",
    "FrontEndFailed",
    "HostUnreachable",
    "InvalidDeclaration",
    "InvalidInput",
    "LibvirtFailed",
    "LibvirtMissing",
    "LockTimeout",
    "NoSpace",
    "NotFound",
    "PartlyDone",
    "PathNotAllowed",
    "SharedDirectory",
    "StaleState",
    "TimedOut",
    "TransferFailed",
    "UnsupportedAction",
    "VmstoreError",
    "from_os_error",
    "missing_command",
    "print_value",
    "printable",
]
