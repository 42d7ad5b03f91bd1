# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Functions for driver scripts that a site writes itself (spec: storage-driver, "Helper Scripts").

A front-end has such functions in ``scripts_common.sh``. That file stays unchanged: ours has a directory of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex

from ..._core.directory import exists_at, opened_directory
from ..._core.errors import os_errors
from ..._core.plan import Action, Plan
from ..._host.made_directory import open_or_make, require_only_root
from ..._remote.ssh import TIMED_OUT, ssh_command
from .installed_script import is_installed, put_script
from .kept_scripts import MARK, KeptScripts

#: Directory in the remotes, and the name of the file.
DIRECTORY, NAME = "granary", "scripts_common.sh"

#: The file is sourced and not run.
MODE = 0o644

TEXT = r"""# shellcheck shell=sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
{mark} Functions for driver scripts, for sh, dash and bash:
#
#     . "$(dirname -- "$0")/../../granary/scripts_common.sh"
#
# The front-end writes lines on stderr that begin with "INFO: " or "ERROR: " to its log. All other lines on stderr are
# the message for the user.

# log TEXT: writes a line to the log.
log() {{
    _granary_print INFO "$1"
}}

# error_message TEXT: gives the user the reason of a failure, in one line. The script has to end with an exit code
# other than 0.
error_message() {{
    case $1 in
        ERROR:\ * | INFO:\ * | WARN:\ * | DEBUG:\ *) _granary_line " $1" >&2 ;;
        *) _granary_line "$1" >&2 ;;
    esac
}}

# arg_host HOST:PATH: prints the host.
arg_host() {{
    _granary_check "$1" || return 1
    printf '%s\n' "${{1%%:/*}}"
}}

# arg_path HOST:PATH: prints the path, without repeated slashes and without a slash at the end.
arg_path() {{
    _granary_check "$1" || return 1
    _granary_path=$(printf '%s' "/${{1#*:/}}" | tr -s /)
    [ "$_granary_path" = / ] || _granary_path=${{_granary_path%/}}
    printf '%s\n' "$_granary_path"
}}

# exec_and_log COMMAND [MESSAGE]: runs a shell command and logs it. If the command fails, the user gets MESSAGE, or the
# last words of the command, and the script ends.
exec_and_log() {{
    _granary_run "$1" "${{2-}}" env LC_ALL=C sh -c "$1"
}}

# ssh_exec_and_log HOST COMMAND [MESSAGE]: like exec_and_log on another host. ssh never prompts.
ssh_exec_and_log() {{
    _granary_quoted=$(printf '%s' "$2" | sed "s/'/'\\\\''/g")
    _granary_run "$2" "${{3-}}" {ssh} "$1" "exec env LC_ALL=C sh -c '$_granary_quoted'"
}}

# timeout_exec_and_log SECONDS COMMAND [MESSAGE]: like exec_and_log, and stops the command after so many seconds.
timeout_exec_and_log() {{
    case $1 in
        '' | 0* | *[!0-9]*)
            error_message "timeout_exec_and_log: '$1' is not accepted: a number of seconds of at least 1 is expected."
            exit 1
            ;;
    esac
    _granary_run "$2" "${{3-}}" timeout --kill-after=5 "$1" env LC_ALL=C sh -c "$2"
}}

# Functions for this file only.

# _granary_line TEXT: prints a text as one line. Control characters become blanks.
_granary_line() {{
    printf '%s\n' "$(printf '%s' "$1" | LC_ALL=C tr '[:cntrl:]' '[ *]')"
}}

# _granary_print LEVEL TEXT: writes a line to the log.
_granary_print() {{
    printf '%s: %s\n' "$1" "$(_granary_line "$2")" >&2
}}

# _granary_check ARGUMENT: refuses an argument that is not HOST:PATH.
_granary_check() {{
    case $1 in
        [!:/-]*:/*) ;;
        *)
            error_message "'$1' is not accepted: HOST:PATH with an absolute path is expected."
            return 1
            ;;
    esac
}}

_granary_newline='
'

# _granary_run COMMAND MESSAGE ARGUMENT...: runs the arguments. Only the end of their stderr is kept, because a log line
# has no use for more. The exit code is its last line.
_granary_run() {{
    _granary_command=$1
    _granary_message=$2
    shift 2
    _granary_said=$({{
        if "$@" </dev/null 2>&1 >/dev/null; then
            printf '\n0'
        else
            printf '\n%s' "$?"
        fi
    }} | tail -c 4096 | tr -d '\000')
    _granary_code=${{_granary_said##*"$_granary_newline"}}
    _granary_said=${{_granary_said%"$_granary_newline"*}}
    _granary_said=${{_granary_said%"$_granary_newline"}}
    if [ "$_granary_code" = 0 ]; then
        log "Executed \"$_granary_command\"."
        return 0
    fi
    if [ "$_granary_code" = {timed_out} ] && [ "$1" = timeout ]; then
        _granary_said="it took longer than $3 seconds"
    fi
    _granary_print ERROR "Command \"$_granary_command\" failed: $_granary_said"
    error_message "${{_granary_message:-Error executing $_granary_command: $_granary_said}}"
    exit "$_granary_code"
}}
"""


def helper_functions() -> str:
    """Return the text of the file."""
    # The host and its command are the last arguments.
    return TEXT.format(mark=MARK, ssh=shlex.join(ssh_command("", "")[:-2]), timed_out=TIMED_OUT)


def plan_helper_functions(plan: Plan, remotes: str, kept: str) -> None:
    """Plan the file in the directory of remotes."""
    path = os.path.join(remotes, DIRECTORY)
    script = helper_functions().encode()
    is_there = False
    with (
        os_errors(f"look at the directory {path}"),
        contextlib.suppress(FileNotFoundError),
        opened_directory(path, option="remotes") as descriptor,
    ):
        if is_installed(descriptor, NAME, script, MODE):
            return
        is_there = exists_at(descriptor, NAME)
    if is_there:
        with os_errors(f"look at the directory {kept}"):
            require_only_root("kept", kept, "the front-end's own scripts are restored from there")
    record = functools.partial(_install, path, KeptScripts(kept, path), script)
    before = {"replaced": [NAME]} if is_there else None
    plan.actions.append(Action("install helper functions", path, before, {"installed": [NAME]}, record))


def _install(path: str, kept: KeptScripts, script: bytes) -> None:
    with os_errors(f"install the helper functions in {path}"):
        descriptor = open_or_make(path, 0o755)
        try:
            if exists_at(descriptor, NAME):
                kept.keep(descriptor, NAME)
            put_script(descriptor, NAME, script, MODE)
        finally:
            os.close(descriptor)


__all__ = ["helper_functions", "plan_helper_functions"]
