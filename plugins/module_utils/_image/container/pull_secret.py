# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pull secrets: a user with a password, or the file of Docker's clients with the users of several registries, as in
Kubernetes' secrets of the type ``kubernetes.io/dockerconfigjson``.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from ..._core.errors import InvalidInput
from .authorization import Credentials
from .reference import DEFAULT_REGISTRY, LocalImage, RegistryImage

#: Upper bound of the file in characters.
_LONGEST = 1 << 20

_ACCEPTED = (
    "the content of a config.json of Docker is expected, in JSON or in base64: auths with registries, each with auth "
    "or with username and password"
)


def find_credentials(
    secret: Mapping[str, Any] | None, image: RegistryImage | LocalImage, option: str = "pull_secret"
) -> Credentials | None:
    """Return the user for the registry of an image.

    :arg secret: ``username`` and ``password``, or ``dockerconfigjson``.
    :arg option: the option for errors, which contain no secrets.
    :raises InvalidInput: the secret is incomplete or invalid.
    """
    given = {name: value for name, value in (secret or {}).items() if value is not None}
    if not given or isinstance(image, LocalImage):
        return None
    if given.keys() == {"username", "password"}:
        return _make(given["username"], given["password"], option)
    if given.keys() == {"dockerconfigjson"}:
        return _find_in_file(given["dockerconfigjson"], image, f"{option}.dockerconfigjson")
    raise InvalidInput(option, "...", "either username and password, or dockerconfigjson is expected")


def _make(username: object, password: object, option: str) -> Credentials:
    if not isinstance(username, str) or not isinstance(password, str) or not username or ":" in username:
        raise InvalidInput(option, "...", "a user without a colon in the name, and a password are expected")
    return Credentials(username, password)


def _find_in_file(content: object, image: RegistryImage, option: str) -> Credentials | None:
    auths = _parse_file(content, option)
    found = {_matching_length(name, image): one for name, one in auths.items()}
    best = max(found, default=0)
    if not best:
        return None
    entry = found[best]
    entry = entry if isinstance(entry, Mapping) else {}
    if entry.get("auth"):
        try:
            user, _colon, password = b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except ValueError as error:
            raise InvalidInput(option, "...", _ACCEPTED) from error
        return _make(user, password.rstrip("\0"), option)
    if "username" not in entry:
        raise InvalidInput(option, "...", _ACCEPTED)
    return _make(entry["username"], entry.get("password"), option)


def _parse_file(content: object, option: str) -> Mapping[str, object]:
    data = content
    try:
        if isinstance(data, str):
            text = data[: _LONGEST + 1].strip()
            data = json.loads(text if text.startswith("{") else b64decode(text, validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise InvalidInput(option, "...", _ACCEPTED) from error
    auths = data.get("auths") if isinstance(data, Mapping) else None
    if not isinstance(auths, Mapping):
        raise InvalidInput(option, "...", _ACCEPTED)
    return auths


def _matching_length(name: str, image: RegistryImage) -> int:
    """Return the length of a name of a registry, perhaps with a part of a repository, that matches an image. Return 0
    for a name that doesn't match.
    """
    text = str(name).partition("://")[2] or str(name)
    host, slash, path = text.rstrip("/").partition("/")
    if path in ("v1", "v2"):  # Docker's own client writes https://index.docker.io/v1/
        slash = path = ""
    if host in (f"index.{DEFAULT_REGISTRY}", f"registry-1.{DEFAULT_REGISTRY}"):
        host = DEFAULT_REGISTRY
    is_within = not slash or f"{image.repository}/".startswith(f"{path}/")
    return len(host) + len(slash) + len(path) if host == image.registry and is_within else 0


__all__ = ["find_credentials"]
