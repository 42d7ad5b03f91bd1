# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired access of one user between the hosts of a site, by ssh (spec: onestor-datastore, "Host Setup").

The directory ``.ssh`` belongs to the user, who may replace any name there at any moment. So root works in it with the
rights of the user, by the descriptor of the directory, and follows no link there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..._core.directory import descriptor_path, opened_directory, opened_file_at
from ..._core.errors import (
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    missing_command,
    os_errors,
)
from ..._core.files import replace_file
from ..._core.identity import Identity, acting_as, identity_of
from ..._core.locks import locked
from ..._core.plan import Action, Plan
from ..service import Service
from . import key_pair
from .desired import CLUSTER_SSH_SPEC, UNKNOWN_KEY, ClusterHost, check_key, host_of, parse_hosts
from .lines import authorized_lines, known_lines, own_lines, replace_lines
from .this_host import find_sources, read_host_keys

#: Names of the files that have lines of the site.
AUTHORIZED_KEYS, KNOWN_HOSTS = "authorized_keys", "known_hosts"

LOCK = ".cluster_ssh.lock"

#: Upper bound of such a file in bytes.
LONGEST_FILE = 16 << 20

DIRECTORY_MODE, FILE_MODE = 0o700, 0o600


class ClusterSshService(Service):
    """Plan the key pair of a user, and the lines of a site in the user's authorized_keys and known_hosts.

    :arg etc: the directory of this host's public keys.
    :arg look_up: returns the account of a user, or raises ``KeyError``.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        etc: str = "/etc/ssh",
        look_up: Callable[[str], pwd.struct_passwd] = pwd.getpwnam,
    ) -> None:
        self.user: str = options["user"]
        self.peers = [host_of(name) for name in options["peers"] or ()]
        self.makes_next: bool = options["next_key"]
        self.use_key = None if options["use_key"] is None else check_key("use_key", options["use_key"])
        if self.makes_next and self.use_key is not None:
            raise InvalidInput("next_key", True, "either next_key or use_key is expected, in two steps of a rotation")
        self.hosts = None if options["hosts"] is None else parse_hosts(options["hosts"])
        self.etc = etc
        self._look_up = look_up

    # The user

    @functools.cached_property
    def _account(self) -> pwd.struct_passwd:
        try:
            account = self._look_up(self.user)
        except KeyError as error:
            raise DependencyNotFound(f"user: this host has no user {self.user!r}.") from error
        if os.geteuid() not in (0, account.pw_uid):
            raise InvalidInput("user", self.user, "root, or this user itself, has to run the module")
        return account

    @property
    def _identity(self) -> Identity | None:
        return None if self._account.pw_uid == os.geteuid() else identity_of(self._account)

    @property
    def _path(self) -> str:
        return os.path.join(self._account.pw_dir, ".ssh")

    @property
    def _comment(self) -> str:
        return f"{self.user}@{os.uname().nodename}"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Yield a descriptor of the directory ``.ssh``, with the rights of the user."""
        identity = self._identity
        with os_errors(f"use the directory {self._path}"), acting_as(identity), opened_directory(self._path) as opened:
            yield opened

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        identity = self._identity
        self._check_home()
        with os_errors(f"make the directory {self._path}"), acting_as(identity), contextlib.suppress(FileExistsError):
            os.mkdir(self._path, DIRECTORY_MODE)
        with locked(os.path.join(self._path, LOCK), identity=identity):
            yield

    def _check_home(self) -> None:
        """Refuse a home directory in which sshd(8) ignores all keys (sshd_config(5), StrictModes).

        :raises DependencyNotFound, Conflict: naming the directory.
        """
        home = self._account.pw_dir
        try:
            with os_errors(f"look at the directory {home}"), acting_as(self._identity):
                found = os.stat(home)
        except FileAccessFailed as error:
            raise DependencyNotFound(f"The home directory {home} of {self.user!r} can't be used: {error}") from error
        if found.st_uid not in (0, self._account.pw_uid) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Conflict(
                f"Other users can change the home directory {home} of {self.user!r}, so sshd accepts no key from "
                f"there: make {self.user!r} its owner, and the only user that can write there."
            )

    # The plan

    def plan(self) -> Plan:
        self._refuse_unknown_keys()
        self._check_home()
        plan = self.plan_unknown()
        if not plan.result["host_keys"]:
            self._report(plan, f"This host has no public keys in {self.etc}: install the package openssh-server.")
        doing = os_errors(f"use the directory {self._path}")
        with doing, acting_as(self._identity), contextlib.ExitStack() as stack:
            directory: int | None = None
            with contextlib.suppress(FileNotFoundError):
                directory = stack.enter_context(opened_directory(self._path))
                self._plan_mode(plan, directory)
            pending = self._plan_keys(plan, directory)
            if self.hosts is not None:
                self._plan_lines(plan, directory, self.hosts)
                if directory is not None and not pending and key_pair.has_previous(directory):
                    record = self._recording(key_pair.remove_previous)
                    plan.actions.append(Action("remove previous key", self._file(key_pair.PREVIOUS), "", None, record))
        return plan

    def plan_unknown(self) -> Plan:
        result: dict[str, object] = {
            "public_key": self.use_key or UNKNOWN_KEY,
            "next_key": None,
            "host_keys": read_host_keys(self.etc),
            "addresses": find_sources(self.peers),
        }
        if self.hosts is not None:
            result["authorized_keys"] = [key for host in self.hosts for key in host.keys or ()]
        return Plan(result)

    def _report(self, plan: Plan, missing: str) -> None:
        self.report_missing(plan, DependencyMissing(missing), is_planned=True)

    def _refuse_unknown_keys(self) -> None:
        """Refuse the substitute for a key outside check mode.

        :raises InvalidInput: naming the option.
        """
        given: dict[str, list[str | None]] = {
            "use_key": [self.use_key],
            "hosts.keys": [key for host in self.hosts or () for key in host.keys or ()],
        }
        for option, keys in given.items():
            if UNKNOWN_KEY in keys and not self.is_dry_run:
                raise InvalidInput(option, UNKNOWN_KEY, "a key from a run outside check mode is expected")

    # The directory and the keys

    def _plan_mode(self, plan: Plan, directory: int) -> None:
        mode = stat.S_IMODE(os.fstat(directory).st_mode)
        if mode != DIRECTORY_MODE:
            record = self._recording(lambda opened: os.chmod(descriptor_path(opened), DIRECTORY_MODE))
            before, after = {"mode": f"{mode:04o}"}, {"mode": f"{DIRECTORY_MODE:04o}"}
            plan.actions.append(Action("change permissions", self._path, before, after, record))

    def _plan_keys(self, plan: Plan, directory: int | None) -> bool:
        """Plan the key pairs, and return whether a next key pair waits afterwards."""
        current, following = (
            None if directory is None else key_pair.read_public(directory, name, self._file(name))
            for name in (key_pair.CURRENT, key_pair.NEXT)
        )
        plan.result.update(public_key=current or UNKNOWN_KEY, next_key=following)
        if self.use_key is not None and self.use_key != current:
            self._plan_use(plan, self.use_key, current, following)
            return False
        if current is None:
            self._plan_creation(plan, "create key pair", key_pair.CURRENT, "public_key")
        elif directory is not None:
            self._plan_repair(plan, directory, current)
        if self.makes_next and current is not None and following is None:
            self._plan_creation(plan, "create next key pair", key_pair.NEXT, "next_key")
        return plan.result["next_key"] is not None

    def _plan_use(self, plan: Plan, wanted: str, current: str | None, following: str | None) -> None:
        if following != wanted and wanted != UNKNOWN_KEY:
            raise Conflict(f"No key pair of {self.user!r} in {self._path} has the public key {wanted!r} of use_key.")
        plan.result.update(public_key=wanted, next_key=None)
        record = self._recording(lambda directory: key_pair.use_next(directory, wanted, self._comment))
        path = self._file(key_pair.CURRENT)
        plan.actions.append(Action("use next key pair", path, {"public_key": current}, {"public_key": wanted}, record))

    def _plan_creation(self, plan: Plan, action: str, name: str, result: str) -> None:
        if shutil.which("ssh-keygen") is None:
            self._report(plan, str(missing_command("ssh-keygen", "openssh-client")))
        plan.result[result] = UNKNOWN_KEY

        def create(directory: int) -> None:
            plan.result[result] = key_pair.create_key(directory, name, self._comment, self._path)
            if name == key_pair.CURRENT:
                key_pair.write_public(directory, str(plan.result[result]), self._comment)

        after = {"public_key": UNKNOWN_KEY}
        plan.actions.append(Action(action, self._file(name), None, after, self._recording(create)))

    def _plan_repair(self, plan: Plan, directory: int, current: str) -> None:
        path = self._file(key_pair.CURRENT)
        if key_pair.is_open_to_others(directory, key_pair.CURRENT):
            record = self._recording(lambda opened: key_pair.close_to_others(opened, key_pair.CURRENT))
            after = {"mode": f"{FILE_MODE:04o}"}
            plan.actions.append(Action("change permissions", path, {"mode": "open to others"}, after, record))
        written = key_pair.read_written(directory)
        if written != current:
            record = self._recording(lambda opened: key_pair.write_public(opened, current, self._comment))
            plan.actions.append(Action("write public key", f"{path}.pub", written, current, record))

    # The lines

    def _plan_lines(self, plan: Plan, directory: int | None, hosts: Sequence[ClusterHost]) -> None:
        own_keys = [str(plan.result[name]) for name in ("public_key", "next_key")]
        authorized = {host.name: authorized_lines(host, own_keys) for host in hosts}
        for host in hosts:
            if len(authorized[host.name]) < len(host.keys or ()):
                plan.warn_once(
                    f"The addresses from which {host.name!r} connects are unknown, so this host accepts no key of "
                    f"{host.name!r}: give its addresses."
                )
        plan.result["authorized_keys"] = [key for lines in authorized.values() for key in lines]
        wanted: dict[str, dict[str, list[str] | None]] = {AUTHORIZED_KEYS: {}, KNOWN_HOSTS: {}}
        for host in hosts:
            is_kept = host.keys is None
            wanted[AUTHORIZED_KEYS][host.name] = None if is_kept else list(authorized[host.name].values())
            wanted[KNOWN_HOSTS][host.name] = None if is_kept else known_lines(host)
        for name, lines in wanted.items():
            self._plan_file(plan, directory, name, lines)

    def _plan_file(
        self, plan: Plan, directory: int | None, name: str, lines: Mapping[str, Sequence[str] | None]
    ) -> None:
        """Plan the lines of the site in one file. The diff has no line of anybody else."""
        path = self._file(name)
        found: tuple[str, int] | None = None
        if directory is not None:
            with os_errors(f"read {path}"):
                found = _read(directory, name)
        text, mode = found or ("", FILE_MODE)
        after = replace_lines(text, lines)
        if after == text and mode == FILE_MODE:
            return
        before = None if found is None else {"mode": f"{mode:04o}", "lines": own_lines(text)}
        plan.actions.append(
            Action(
                "write lines",
                path,
                before,
                {"mode": f"{FILE_MODE:04o}", "lines": own_lines(after)},
                self._recording(lambda opened: _write(opened, name, after, FILE_MODE)),
                self._recording(lambda opened: _restore(opened, name, found)),
            )
        )

    def _recording(self, change: Callable[[int], object]) -> Callable[[], None]:
        """Return a function that makes a change in the directory ``.ssh``."""

        def record() -> None:
            with self._opened() as directory:
                change(directory)

        return record

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)


def _read(directory: int, name: str) -> tuple[str, int] | None:
    """Return the text and the permissions of a regular file; ``None`` without the file.

    :raises OSError: the file can't be read, is a link, or is too long.
    """
    try:
        with opened_file_at(directory, name) as descriptor:
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(LONGEST_FILE + 1)
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    except FileNotFoundError:
        return None
    if len(data) > LONGEST_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return os.fsdecode(data), mode


def _write(directory: int, name: str, text: str, mode: int) -> None:
    replace_file(directory, name, os.fsencode(text), mode, keeps_attributes=False)


def _restore(directory: int, name: str, found: tuple[str, int] | None) -> None:
    if found is None:
        os.unlink(name, dir_fd=directory)
    else:
        _write(directory, name, *found)


__all__ = ["CLUSTER_SSH_SPEC", "ClusterSshService"]
