"""A host that guests cannot change, for tests that let chance say what a guest does.

The machines of `tests.vmm.hypervisor.host_driver` are processes of this host, so `rm -rf /` there would be one here.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.server_process import NAMESPACE
from tests.waiting import PATIENCE_S

_SCRIPT = """
set -e
mount --bind "$1" "$1"
while read -r _ place _; do
  [ "$place" = "$1" ] || mount -o remount,bind,ro "$place"
done < /proc/mounts
[ ! -w / ] && [ ! -w /etc ] && [ ! -w /tmp ]
shift
exec "$@"
"""


def read_only_but(directory: Path) -> tuple[str, ...]:
    """Return a command that runs another one where only one directory can be written."""
    return (*NAMESPACE, _SCRIPT, "sh", str(directory))


def possible(directory: Path) -> bool:
    """Tell whether this user may do that here."""
    if shutil.which(NAMESPACE[0]) is None:
        return False
    command = [*read_only_but(directory), "true"]
    return subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S).returncode == 0
