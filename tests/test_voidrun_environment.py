"""A server that is started with VoidRun's whole environment, as it stands there, and says once what that means here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bench.server import running
from tests.mcp_server.settings.voidrun_environment import ALL
from tests.server_process import Place, http, places

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@pytest.fixture
async def place(tmp_path: Path, served: Path) -> AsyncGenerator[Place]:
    async with places(tmp_path, served) as make:
        yield make


async def test_a_server_starts_with_voidruns_environment_and_tells_what_has_no_effect(
    place: Place, mongo_uri: str, mongo_name: str
) -> None:
    data = place("a")
    # What only the host decides: where a MongoDB is, and directories that a test may write to.
    own = {
        "MONGO_URI": mongo_uri,
        "MONGO_DB": mongo_name,
        "BASE_IMAGES_DIR": str((data / "images").resolve()),
        "INSTANCES_DIR": str(data / "instances"),
        "CASEMATE_WARM": "false",
        "CASEMATE_LOG_FORMAT": "json",
    }
    with (data / "server.log").open("w") as log:
        async with running(data, log=log.fileno(), **(ALL | own)) as server, http(server) as operator:
            assert (await operator.get("/ready")).json()["ready"]
            assert (await operator.get("/api/images/name/debian")).json()["name"] == "code"
            page = {"origin": "https://any.example.org"}
            listed = await operator.get("/api/sandboxes", headers=page)
            assert (listed.status_code, listed.headers["access-control-allow-origin"]) == (200, "*")
            assert "access-control-allow-credentials" not in listed.headers
            token = await operator.get("/api/sandboxes", headers={"x-api-key": "", "authorization": "Bearer a.b.c"})
            assert (token.status_code, "CASEMATE_JWT_SECRET" in token.json()["details"]) == (401, True)
    lines = [json.loads(line) for line in (data / "server.log").read_text().splitlines() if line.startswith("{")]
    (told,) = [line["variables"] for line in lines if line["event"] == "variables without effect"]
    assert {"KERNEL_PATH", "HEALTH_ENABLED", "NODE_ID", "CLERK_SECRET_KEY", "SANDBOX_DISK_FORMAT"} <= set(told)
    assert "Qaz123wsx123" not in (data / "server.log").read_text()
