# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key pair of a user: files in the user's directory ``.ssh``, used by the descriptor of the directory.

While a rotation is under way, there are two pairs. The next private key has a name that ssh(1) doesn't use, until all
other hosts accept the key. Then the next key gets the usual name. A connection that began with the old key finds the
old key under another usual name, so that no connection fails.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat

from ..._core.command import run
from ..._core.directory import descriptor_path, exists_at, open_file_at, opened_file_at, sync_opened
from ..._core.errors import Conflict, os_errors
from ..._core.files import replace_file

#: Names of files in ``.ssh``.
CURRENT = "id_ed25519"
NEXT = ".id_ed25519.next"
PREVIOUS = ".id_ed25519.previous"
_NEW = ".id_ed25519.new"

#: Further names of private keys that ssh(1) tries without configuration (ssh_config(5), IdentityFile). Their usual
#: content is a key of a hardware token, which a service can't use.
_SPARE = ("id_ed25519_sk", "id_ecdsa_sk")

#: Upper bound of a private key in bytes. One of the longest kind, RSA with 16384 bits, has 12 kB.
LONGEST_KEY = 1 << 16

_BEGIN, _END = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"


def read_public(directory: int, name: str, path: str) -> str | None:
    """Return the public key of a private key file; ``None`` without the file.

    :arg path: path of the file, for messages.
    :raises Conflict: the file isn't a private key, or has a passphrase.
    :raises FileAccessFailed: the file can't be read, or isn't regular.
    """
    try:
        with (
            os_errors(f"read {path}"),
            contextlib.suppress(FileNotFoundError),
            opened_file_at(directory, name) as found,
        ):
            with open(found, "rb", closefd=False) as file:
                return _public_part(file.read(LONGEST_KEY + 1))
    except ValueError as error:
        raise Conflict(
            f"The file {path} is not a private key of OpenSSH without a passphrase, so ssh can't use it without a "
            "person: move it away, and a new key pair is created."
        ) from error
    return None


def _public_part(data: bytes) -> str:
    """Return the public key in a private key (PROTOCOL.key of OpenSSH).

    :raises ValueError: the data are something else, or encrypted.
    """
    begin, end = data.index(_BEGIN) + len(_BEGIN), data.index(_END)
    blob = base64.b64decode(b"".join(data[begin:end].split()), validate=True)
    if not blob.startswith(_MAGIC):
        raise ValueError
    cipher, rest = _take(blob[len(_MAGIC) :])
    _kdf, rest = _take(rest)
    _options, rest = _take(rest)
    public, _rest = _take(rest[4:])  # after the number of keys
    kind, _rest = _take(public)
    if cipher != b"none":
        raise ValueError
    return f"{kind.decode('ascii')} {binascii.b2a_base64(public, newline=False).decode()}"


def _take(data: bytes) -> tuple[bytes, bytes]:
    """Return the first text in the format of SSH (RFC 4251, 5), and the rest."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise ValueError
    return data[4 : 4 + length], data[4 + length :]


def create_key(directory: int, name: str, comment: str, path: str) -> str:
    """Create a key pair without a passphrase, whose private key gets the name ``name``, and return its public key.

    :arg path: path of the directory, for messages.
    :raises CommandFailed: ssh-keygen(1) is missing or fails; :raises OSError: the operating system refuses.
    """
    _remove(directory, _NEW, f"{_NEW}.pub")
    try:
        target = descriptor_path(directory, _NEW)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", target], files={directory: path})
        public = read_public(directory, _NEW, f"{path}/{_NEW}")
        descriptor = open_file_at(directory, _NEW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(_NEW, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        _remove(directory, _NEW, f"{_NEW}.pub")
    sync_opened(directory)
    return public or ""


def use_next(directory: int, public: str, comment: str) -> None:
    """Give the next key the usual name, in steps that a later call completes.

    :arg public: the next public key.
    :raises OSError: the operating system refuses.
    """
    _remove(directory, PREVIOUS)
    with contextlib.suppress(FileNotFoundError):
        os.link(CURRENT, PREVIOUS, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    for spare in _SPARE:
        if not exists_at(directory, spare):
            os.symlink(PREVIOUS, spare, dir_fd=directory)
        if _is_ours(directory, spare):
            break
    # ssh(1) must not find the public key of one pair beside the private key of the other one.
    _remove(directory, f"{CURRENT}.pub")
    os.rename(NEXT, CURRENT, src_dir_fd=directory, dst_dir_fd=directory)
    write_public(directory, public, comment)


def write_public(directory: int, public: str, comment: str) -> None:
    """Write the public key beside the private key."""
    text = f"{public} {comment}\n".encode()
    replace_file(directory, f"{CURRENT}.pub", text, 0o644, keeps_attributes=False)


def read_written(directory: int) -> str | None:
    """Return the public key in the file beside the private key, without its comment; ``None`` without the file."""
    try:
        descriptor = open_file_at(directory, f"{CURRENT}.pub")
    except FileNotFoundError:
        return None
    except OSError:  # a link, or a file of another user
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return " ".join(os.fsdecode(file.read(LONGEST_KEY)).split(maxsplit=2)[:2])


def has_previous(directory: int) -> bool:
    """Return whether the private key before the last rotation is still there."""
    return exists_at(directory, PREVIOUS) or any(_is_ours(directory, spare) for spare in _SPARE)


def remove_previous(directory: int) -> None:
    """Remove the private key before the last rotation."""
    _remove(directory, *(spare for spare in _SPARE if _is_ours(directory, spare)), PREVIOUS)
    sync_opened(directory)


def is_open_to_others(directory: int, name: str) -> bool:
    """Return whether other users have rights on a file, so that ssh(1) refuses a private key."""
    try:
        return bool(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode & 0o077)
    except FileNotFoundError:
        return False


def close_to_others(directory: int, name: str) -> None:
    """Take the rights of other users on a file of this user away."""
    descriptor = open_file_at(directory, name)
    try:
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
    finally:
        os.close(descriptor)


def _is_ours(directory: int, name: str) -> bool:
    try:
        return os.readlink(name, dir_fd=directory) == PREVIOUS
    except OSError:
        return False


def _remove(directory: int, *names: str) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


__all__ = [
    "CURRENT",
    "NEXT",
    "close_to_others",
    "create_key",
    "has_previous",
    "is_open_to_others",
    "read_public",
    "read_written",
    "remove_previous",
    "use_next",
    "write_public",
]
