# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories that hold the secrets of a front-end, wherever it is installed: keys, passwords, its database, the
programs that it runs.

An action runs with the rights of the front-end's user. Without this list, any user of the front-end could create an
image of a secret.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

#: The configuration of a front-end that was installed from packages.
CONFIGURATION = "/etc/one"

#: Names of secrets in a home directory and in the directory above the remotes. A datastore's SAFE_DIRS can allow the
#: directory, but not the secrets.
INNER = (".one", ".ssh", "one.db")

#: Variables of the environment that name further places.
HOME, LOCATION, AUTHENTICATION = "HOME", "ONE_LOCATION", "ONE_AUTH"


def secret_paths(remotes: str, environment: Mapping[str, str]) -> list[str]:
    """Return absolute paths of directories and files that no image may be made of.

    :arg remotes: the front-end's directory of remotes. A front-end that isn't installed from packages has its remotes
        in ``$ONE_LOCATION/var``.
    """
    above = [os.path.dirname(path) for path in (remotes, os.path.realpath(remotes))]
    locations = [
        environment.get(LOCATION, ""),
        *(os.path.dirname(path) for path in above if os.path.basename(path) == "var"),
    ]
    homes = [environment.get(HOME, ""), account_home()]
    outer = [*above, *homes]
    paths = [CONFIGURATION, remotes, *outer, environment.get(AUTHENTICATION, "")]
    paths += [os.path.join(location, name) for location in locations if location for name in ("etc", "var")]
    paths += [os.path.join(path, name) for path in outer if path for name in INNER]
    # Restricting the root directory would restrict everything.
    return sorted({os.path.normpath(path) for path in paths if path.startswith("/")} - {"/", "//"})


def account_home() -> str:
    """Return the home directory of this process's user, or ``""`` for a user without an account."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""


__all__ = ["AUTHENTICATION", "HOME", "account_home", "secret_paths"]
