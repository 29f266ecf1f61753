"""The scripts that run inside a session's sandbox. What callers say is only ever an argument of them, never a line.

Those about files run as the session's user, so the kernel refuses whatever that user may not do, by whichever link.
They end with a status of their own for each refusal; the workspace is their first argument.
"""

from __future__ import annotations

MISSING, ESCAPES, DIRECTORY, TOO_LARGE, NO_DIRECTORY, NO_FILE = 41, 42, 43, 44, 45, 46
"""Exit statuses of the scripts about files."""

PREPARE = r"""
set -eu
if [ -n "$2" ]; then
  entry() { # a line for a file, unless the id is there already
    [ -e "$1" ] || : > "$1"
    while IFS=: read -r _ _ id _; do [ "$id" != "$2" ] || return 0; done < "$1"
    printf '%s\n' "$3" >> "$1"
  }
  entry /etc/group "$2" "sandbox:x:$2:"
  entry /etc/passwd "$2" "sandbox:x:$2:$2::/home/sandbox:/bin/bash"
  mkdir -p /home/sandbox
  chown "$2:$2" /home/sandbox
fi
mkdir -p -- "$1"
[ -z "$2" ] || chown "$2:$2" -- "$1"
"""
"""Makes the user (the second argument, a uid; empty for none) and the workspace."""

_INSIDE = r"""
set -u
root=$(realpath -e -- "$1") || exit 41
inside() {
  case $(realpath -m -- "$1")/ in
    "$root"/*) ;;
    *) exit 42 ;;
  esac
}
"""

LIST = (
    _INSIDE
    + r"""
inside "$2"
[ -e "$2" ] || exit 41
[ -d "$2" ] || exit 45
cd -P -- "$2" || exit 41
shopt -s dotglob nullglob
for name in *; do
  if [ -d "$name" ] && [ ! -L "$name" ]; then printf 'd%s\0' "$name"; else printf 'f%s\0' "$name"; fi
done
"""
)
"""Prints the entries of a directory, each with its kind before and a NUL behind it."""

READ = (
    _INSIDE
    + r"""
inside "$2"
[ -e "$2" ] || exit 41
[ ! -d "$2" ] || exit 43
[ -f "$2" ] || exit 46
[ "$(stat -L -c %s -- "$2")" -le "$3" ] || exit 44
exec head -c "$(($3 + 1))" -- "$2"
"""
)
"""Prints a file of at most so many bytes (the third argument), and one byte more if it grew meanwhile."""

WRITE = (
    _INSIDE
    + r"""
directory=${2%/*}
inside "$directory"
[ ! -d "$2" ] || exit 43
mkdir -p -- "$directory" || exit 46
inside "$directory"
draft=$(mktemp -- "$directory/.draft.XXXXXXXX") || exit 46
trap 'rm -f -- "$draft"' EXIT
cat > "$draft" || exit 1
if [ -f "$2" ]; then chmod --reference="$2" -- "$draft"; else chmod 644 -- "$draft"; fi
mv -fT -- "$draft" "$2" || exit 46
"""
)
"""Writes its input to a file: all of it or nothing. A link in the place of the file is replaced, not followed."""

DELETE = (
    _INSIDE
    + r"""
inside "${2%/*}"
[ -e "$2" ] || [ -L "$2" ] || exit 41
rm -rf -- "$2"
"""
)
"""Deletes a file, a link or a directory with all that is in it."""


def script(text: str, *arguments: str) -> tuple[str, ...]:
    """Return the program and arguments that run a script."""
    return ("/bin/bash", "-c", text, "bash", *arguments)


def limited(line: str, pids: int) -> tuple[str, ...]:
    """Return the program and arguments that run a line, which gains no privileges and has at most so many processes.

    Args:
        line: The line, for bash.
        pids: Processes and threads of the user; 0 is no limit.
    """
    # One shell for both: a second one would add a third to the time of a small command.
    limit = f"ulimit -u {pids}; " if pids else ""
    return ("setpriv", "--no-new-privs", "--", "/bin/bash", "-c", f"{limit}{line}")
