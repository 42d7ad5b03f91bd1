# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired content of a context image, as the options of the module ``vm_context`` give it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.errors import InvalidInput
from ..._core.paths import absolute
from ..._core.plain import is_integer
from ..._core.records import dataclass
from ..._image import nocloud_seed
from ..._image.context_script import (
    SCRIPT,
    VOLUME_ID,
    ContextMount,
    check_name,
    check_value,
    context_script,
    mount_variables,
)
from ..._image.iso_image import MOST_FILES, IsoLabels, check_file_name
from ..directory import read_mode

#: The application id of the images that this collection writes. Other images aren't replaced.
APPLICATION_ID = "GRANARY.VMSTORE VM_CONTEXT"

VM_CONTEXT_SPEC = ArgumentSpec(
    {
        "path": {"type": "path", "required": True},
        "format": {"type": "str", "choices": ["context", "nocloud"], "default": "context"},
        "variables": {"type": "dict", "default": {}},
        "files": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"path": {"type": "path"}, "content": {"type": "str"}, "name": {"type": "str"}},
            "mutually_exclusive": [["path", "content"]],
            "required_one_of": [["path", "content"]],
            "required_by": {"content": ["name"]},
        },
        "ssh_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "mounts": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "mount_tag": {"type": "str", "required": True},
                "mount_point": {"type": "str", "required": True},
                "read_only": {"type": "bool", "default": False},
            },
        },
        "hostname": {"type": "str"},
        "instance_id": {"type": "str"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
)


@dataclass(frozen=True)
class ContextSpec:
    """The desired state of an image.

    :arg labels: those of the image; ``None`` for an image that is absent.
    :arg files: contents of the image's files by name.
    :arg sources: paths on this host of further files, by name in the image.
    :arg mode: the permissions; ``None`` leaves those of an existing image.
    """

    path: str
    labels: IsoLabels | None
    files: Mapping[str, bytes]
    sources: Mapping[str, str]
    owner: str | None = None
    group: str | None = None
    mode: int | None = None


def parse_context(options: Mapping[str, Any]) -> ContextSpec:
    """Return the desired state in the options of the module.

    :raises InvalidInput: naming the option.
    """
    path = absolute("path", options["path"])
    mode = None if options["mode"] is None else read_mode("mode", options["mode"])
    if options["state"] == "absent":
        return ContextSpec(path, None, {}, {})
    if options["format"] == "context":
        labels, files = IsoLabels(VOLUME_ID, APPLICATION_ID), _context_files(options)
    else:
        labels, files = IsoLabels(nocloud_seed.VOLUME_ID, APPLICATION_ID), _cloud_files(options)
    sources = _add_files(files, options["files"])
    return ContextSpec(path, labels, files, sources, options["owner"], options["group"], mode)


def _context_files(options: Mapping[str, Any]) -> dict[str, bytes]:
    if options["instance_id"] is not None:
        raise InvalidInput("instance_id", options["instance_id"], "this option is for format nocloud only")
    variables = {
        check_name("variables", name): check_value("variables", name, _read_value(name, value))
        for name, value in options["variables"].items()
    }
    read_only = [mount["mount_tag"] for mount in options["mounts"] if mount["read_only"]]
    if read_only:
        accepted = (
            "OpenNebula's context packages mount read-write only; make the export read-only, which the guest can't "
            "change"
        )
        raise InvalidInput("mounts.read_only", True, accepted)
    mounts = mount_variables(
        tuple(ContextMount(mount["mount_tag"], mount["mount_point"]) for mount in _different(options["mounts"]))
    )
    hostname = _read_hostname(options["hostname"])
    keys = _read_keys(options["ssh_keys"])
    further = {
        **({"ssh_keys": {"SSH_PUBLIC_KEY": "\n".join(keys)}} if keys else {}),
        **({"hostname": {"SET_HOSTNAME": hostname}} if hostname is not None else {}),
        "mounts": mounts,
    }
    for option, given in further.items():
        for name, value in given.items():
            if name in variables:
                raise InvalidInput("variables", name, f"the option {option} sets this variable, so give one of them")
            variables[name] = check_value(option, name, value)
    return {SCRIPT: context_script(variables)}


def _cloud_files(options: Mapping[str, Any]) -> dict[str, bytes]:
    if options["variables"]:
        accepted = "cloud-init reads no variables, which are for format context only"
        raise InvalidInput("variables", sorted(map(str, options["variables"]))[0], accepted)
    if options["instance_id"] is None:
        raise InvalidInput(
            "instance_id", None, "format nocloud needs an id that stays the same, such as the domain's uuid"
        )
    return nocloud_seed.cloud_files(
        options["instance_id"],
        [
            nocloud_seed.SeedMount(mount["mount_tag"], mount["mount_point"], mount["read_only"])
            for mount in _different(options["mounts"])
        ],
        hostname=_read_hostname(options["hostname"]),
        ssh_keys=_read_keys(options["ssh_keys"]),
    )


def _read_value(name: str, value: object) -> str:
    if is_integer(value):
        return str(value)
    if not isinstance(value, str):
        raise InvalidInput(
            f"variables.{name}", type(value).__name__, "a text such as 'YES' in quotes, or a whole number, is expected"
        )
    return value


def _different(mounts: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return ``mounts`` if each has a tag and a mount point that no other one has."""
    for option in ("mount_tag", "mount_point"):
        if any(mount[option] is None for mount in mounts):  # Ansible takes a null for a value
            raise InvalidInput(f"mounts.{option}", None, "each mount needs a tag and a mount point")
        values = [mount[option].rstrip("/") for mount in mounts]
        for value in values:
            if values.count(value) > 1:
                raise InvalidInput(f"mounts.{option}", value, "each tag and each mount point is expected once")
    return mounts


def _read_hostname(name: str | None) -> str | None:
    label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if name is not None and (len(name) > 253 or re.fullmatch(rf"{label}(\.{label})*", name) is None):
        raise InvalidInput("hostname", name, "a host name of letters, digits, '-' and '.' is expected (RFC 1123)")
    return name


def _read_keys(keys: Sequence[str]) -> list[str]:
    """Return public keys of ssh without blanks around them. The error doesn't contain the text, because it may be a
    private key.
    """
    for number, key in enumerate(keys):
        is_key = re.search(
            r"(^|\s)(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ AAAA[A-Za-z0-9+/]+={0,3}(\s|$)", key.strip()
        )
        if is_key is None or not key.strip().isprintable():
            raise InvalidInput(
                f"ssh_keys[{number}]", "...", "one line with a public key, as in a file id_*.pub, is expected"
            )
    return [key.strip() for key in keys]


def _add_files(files: dict[str, bytes], given: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Add the contents in the option ``files`` to the files that the module writes. Return the paths by name."""
    taken = {name.lower(): "the module writes this file itself" for name in files}
    if len(given) + len(files) > MOST_FILES:
        raise InvalidInput("files", len(given), f"at most {MOST_FILES - len(files)} files are expected")
    sources = {}
    for one in given:
        path = None if one["path"] is None else absolute("files.path", one["path"])
        name = os.path.basename(path) if one["name"] is None and path is not None else one["name"]
        check_file_name("files.name", name)
        if name.lower() in taken:
            raise InvalidInput("files.name", name, taken[name.lower()])
        taken[name.lower()] = "each name is expected once, also in small and capital letters"
        if path is None:
            files[name] = _encode(one["content"])
        else:
            sources[name] = path
    return sources


def _encode(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("files.content", "...", "a text in UTF-8 is expected; give path for other data") from error


__all__ = ["APPLICATION_ID", "VM_CONTEXT_SPEC", "ContextSpec", "parse_context"]
