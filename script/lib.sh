# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
#
# What script/lint, script/test, script/demo, script/fresh and script/bench share: the checks of the machine, and the tools they bring with them.
# Everything is kept in .venv and .cache of the checkout; deleting both starts afresh.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
CACHE=$ROOT/.cache
COLLECTIONS=$CACHE/collections

# Nothing of the caller's Python or Ansible set-up may decide a result; a pyenv shim on PATH would.
unset PYTHONPATH PYTHONHOME PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE VIRTUAL_ENV ANSIBLE_CONFIG ANSIBLE_ROLES_PATH
export PATH=$VENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export ANSIBLE_COLLECTIONS_PATH=$COLLECTIONS
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export LC_ALL=C.UTF-8
[ -t 1 ] || export NO_COLOR=1
# root may work on a checkout that belongs to somebody else.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=$ROOT

say() { printf '==> %s\n' "$*"; }

die() {
    printf '%s: %s\n' "script/$(basename -- "$0")" "$*" >&2
    exit 2
}

check_machine() {
    local name
    # shellcheck source=/dev/null
    name=$(. /etc/os-release 2>/dev/null && printf '%s %s' "${ID:-}" "${VERSION_ID:-}") || name=unknown
    case $name in
        'debian 12' | 'debian 13') ;;
        'ubuntu 24.04') say "nobody has run this on Ubuntu 24.04 yet: please tell us how it went" ;;
        *) die "this system is \"$name\", and only Debian 12, Debian 13 and, untested, Ubuntu 24.04 are accepted." ;;
    esac
    [ "$(id -u)" = 0 ] || die "this needs root, to install packages and to run test hosts: run it with sudo."
}

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing packages: ${missing[*]}"
    local apt=(apt-get -q -o DPkg::Lock::Timeout=600)
    # A source of the machine that has nothing to do with us may be unreachable; what is really missing shows in the next step.
    "${apt[@]}" update >"$CACHE/apt.log" 2>&1 || say "apt-get update failed, going on with the package lists at hand ($CACHE/apt.log)"
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >>"$CACHE/apt.log" 2>&1 || {
        tail -n 20 "$CACHE/apt.log" >&2
        die "these packages could not be installed: ${missing[*]}."
    }
}

# Packages that the tools need; the test hosts' own are listed beside them.
apt_packages() {
    printf '%s\n' gcc git libc6-dev libvirt-dev pkg-config python3 python3-dev python3-venv uidmap
    local list
    for list in "$ROOT/tests/apt-packages.txt" "$ROOT/tests/harness/apt-packages.txt"; do
        [ ! -e "$list" ] || sed -e 's/#.*//' "$list" | tr -s '[:space:]' '\n' | sed '/^$/d'
    done
}

# fresh_venv DIRECTORY PYTHON LOCK...: a virtual environment with exactly what the lock files pin, made again when one of them changes.
fresh_venv() {
    local directory=$1 python=$2 lock key
    shift 2
    # The directory is part of the key: a virtual environment that was moved or copied is useless.
    key=$({ printf '%s\n' "$directory"; "$python" -I -V; cat -- "$@"; } | sha256sum)
    if [ "$(cat "$directory/.stamp" 2>/dev/null)" != "$key" ]; then
        say "making $directory ($("$python" -I -V), $(basename -a -- "$@" | paste -sd' '))"
        rm -rf -- "$directory"
        "$python" -I -m venv "$directory"
        for lock in "$@"; do
            # Two passes and no build isolation, so that what is built here is built by the pinned setuptools.
            "$directory/bin/pip" install --quiet --require-hashes --no-build-isolation -r "$lock" 2>"$CACHE/pip.log" || {
                tail -n 30 "$CACHE/pip.log" >&2
                die "the packages pinned in ${lock#"$ROOT"/} could not be installed."
            }
        done
        printf '%s\n' "$key" >"$directory/.stamp"
    fi
}

# The harness is part of the checkout and is used in place; its dependencies are in the lock file.
install_harness() {
    local project=$ROOT/tests/harness/pyproject.toml key
    [ -e "$project" ] || return 0
    key=$(sha256sum <"$project")
    if [ "$(cat "$VENV/.stamp-harness" 2>/dev/null)" != "$key" ]; then
        say "installing tests/harness into .venv"
        "$VENV/bin/pip" install --quiet --no-deps --no-build-isolation --editable "$ROOT/tests/harness" 2>"$CACHE/pip.log" || {
            tail -n 30 "$CACHE/pip.log" >&2
            die "tests/harness could not be installed."
        }
        "$VENV/bin/pip" check >/dev/null || {
            "$VENV/bin/pip" check >&2 || true
            die "requirements/dev.lock lacks something that tests/harness/pyproject.toml asks for."
        }
        printf '%s\n' "$key" >"$VENV/.stamp-harness"
    fi
}

# The checkout may be anywhere; Ansible wants to find it as ansible_collections/granary/vmstore.
link_collection() {
    mkdir -p "$COLLECTIONS/ansible_collections/granary"
    ln -sfn ../../../.. "$COLLECTIONS/ansible_collections/granary/vmstore"
}

prepare() {
    check_machine
    mkdir -p "$CACHE"
    mapfile -t packages < <(apt_packages)
    apt_install "${packages[@]}"
    (
        # Two runs at once must not make the same directory.
        flock 9
        fresh_venv "$VENV" /usr/bin/python3 "$ROOT/requirements/build.lock" "$ROOT/requirements/dev.lock"
        install_harness
        link_collection
    ) 9>"$CACHE/lock"
}
