"""Every public method of VoidRun's Python package has a test in this directory."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.clients.voidrun_package import CLAIMS, public_methods


def test_every_public_method_of_the_package_is_called_by_a_test() -> None:
    for module in Path(__file__).parent.glob("test_voidrun_*.py"):
        import_module(f"tests.clients.{module.stem}")
    claimed = {name for names in CLAIMS.values() for name in names}
    public = public_methods()
    assert {"VoidRun.create_sandbox", "FS.watch", "ExecutionApi.session_exec"} <= public.keys()
    assert claimed == public.keys()
