"""Schemathesis tries every route of a live server: no answer is a 500, or other than the API's description says.

The guests are processes of this host, in which they can write nothing but the test's own directory. What is tried is
the same in every run; `CASES`, `SCENARIOS` and `STEPS` say how much.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks as standard

from mcp_server.identity import Identity
from mcp_server.settings import Settings
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import Edge, serving
from tests.mcp_server.host import NAME, Prepared, one_host
from tests.mcp_server.read_only_host import possible, read_only_but
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

CASES, SCENARIOS, STEPS = 5, 25, 15
ROOM = 5
"""Sandboxes that the host has memory for."""

NOT_IN_SCENARIOS = ["account.register", "file.delete"]
"""There are few registrations an hour; and what removes a file does not make its directory's route answer with 404."""

ENDS_THE_SANDBOX = "sandbox.delete"
FIELDS_THAT_NEED_SOMETHING_TO_EXIST = ("orgId", "userId", "snapshot")
SELDOM_RIGHT_BY_CHANCE = {
    "image",
    "env",
    "envVars",
    "cwd",
    "labels",
    "network",
    "ports",
    "publishPorts",
    "argv",
    "args",
}
LISTS = {"/api/sandboxes": NAME, "/api/snapshots": "", "/api/orgs/apikeys": "test"}
"""The lists that a scenario finds without what earlier ones made, and what stays in them."""

QUIET = how(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    print_blob=False,
    stateful_step_count=STEPS,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

schemathesis.serializer.alias("application/x-tar", "application/octet-stream")


def did_not_fail(ctx: Any, response: Any, case: Any) -> bool | None:
    """Refuse 500; the statuses from 502 to 529 say what is wrong with a sandbox or the host."""
    assert response.status_code != 500, response.text
    return None


CHECKS: list[Callable[..., bool | None]] = [
    did_not_fail,
    *(getattr(standard, f"{name}_conformance") for name in ("status_code", "content_type", "response_schema")),
]
GONE: Callable[..., bool | None] = getattr(standard, "use_after_free")  # noqa: B009 - its type is not complete


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, rate_limit_requests=1_000_000)


@pytest.fixture
async def live(
    assemble: Assemble, keys: dict[str, str], identity: Identity, prepared: Prepared, tmp_path: Path
) -> AsyncGenerator[Edge]:
    """A server on which alice, an operator, has one sandbox."""
    directory = tmp_path / "machines"
    directory.mkdir()
    if not possible(directory):
        pytest.skip("may not mount here, not even in a namespace of its own")
    for user in await identity.accounts.users.list():
        await identity.accounts.users.make_operator(user.id)
    async with one_host(prepared, directory, room=ROOM, within=read_only_but(directory)) as fleet:
        services = assemble(fleet)
        async with serving(services.web(), keys, services.identity.run) as running:
            yield running


async def test_a_route_answers_as_described_whatever_it_is_sent(live: Edge) -> None:
    schema = await described(live)
    for found in schema.get_all_operations():
        for mode in GenerationMode:
            await in_thread(partial(_try, live, found.ok(), mode))


async def test_routes_answer_as_described_when_one_call_leads_to_the_next(live: Edge) -> None:
    schema = await described(live)
    followed: set[str] = set()

    machine: Any = schema.exclude(operation_id=NOT_IN_SCENARIOS).as_state_machine()

    class Scenario(machine):
        def setup(self) -> None:
            _remove_all(live)

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return _sent(live)

        def before_call(self, case: Any) -> None:
            _prepare(case)
            if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
                _leave_out(case, SELDOM_RIGHT_BY_CHANCE)

        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            if response.status_code < 400:
                followed.add(case.operation.definition.raw["operationId"])
            case.validate_response(
                response, checks=[*CHECKS, GONE], transport_kwargs=_sent(live), recorder=self.recorder
            )

    run: Callable[..., None] = Scenario.run
    await in_thread(partial(run, settings=how(QUIET, max_examples=SCENARIOS)))
    assert "sandbox.create" in followed
    assert len(followed) > 12, followed


async def in_thread(call: Callable[[], None]) -> None:
    """Call what calls the server, and fail with its words alone: its traceback is thousands of lines long."""
    failure = ""

    def told() -> None:
        nonlocal failure
        try:
            call()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"

    await anyio.to_thread.run_sync(told)
    if failure:
        pytest.fail(failure, pytrace=False)


async def described(live: Edge) -> Any:
    """The description of the server's API, without what misleads Schemathesis."""
    async with live.http() as http:
        description = (await http.get("/api/openapi.json")).json()
    # It calls nothing before it has called what makes such a thing.
    for name in FIELDS_THAT_NEED_SOMETHING_TO_EXIST:
        del description["components"]["schemas"]["CreateRequest"]["properties"][name]
    schema = schemathesis.openapi.from_dict(description)
    schema.config.generation.update(with_security_parameters=False)
    schema.config.phases.stateful.inference.algorithms = []
    return schema


def _try(live: Edge, operation: Any, mode: GenerationMode) -> None:
    """Call one route with values that fit its description, or that do not."""
    ends = operation.definition.raw["operationId"] == ENDS_THE_SANDBOX
    known = {"id": NAME} if "{id}" in operation.path and not ends else None

    @given(case=operation.as_strategy(mode, path_parameters=known))
    @how(QUIET, max_examples=CASES)
    def call(case: Any) -> None:
        _prepare(case)
        case.validate_response(case.call(**_sent(live)), checks=CHECKS)

    try:
        call()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "some values must fit"  # A route without values has no wrong ones.


def _sent(live: Edge) -> dict[str, Any]:
    return {"base_url": live.url, "headers": {"x-api-key": live.keys["alice"]}, "timeout": PATIENCE_S}


def _prepare(case: Any) -> None:
    """Change requests that would be answered late or never."""
    if "follow" in case.query:
        case.query["follow"] = "false"
    _leave_out(case, {"timeout"})


def _leave_out(case: Any, names: set[str]) -> None:
    body: object = case.body
    if isinstance(body, dict):
        case.body = {name: value for name, value in cast("dict[str, Any]", body).items() if name not in names}


def _remove_all(live: Edge) -> None:
    """Remove what earlier scenarios made, so that the same calls have the same answers."""
    with httpx.Client(base_url=live.url, headers=_sent(live)["headers"], timeout=PATIENCE_S) as http:
        for path, kept in LISTS.items():
            answer: Any = http.get(path, params={"limit": 100}).json()
            rows = cast("list[dict[str, Any]]", answer if isinstance(answer, list) else answer["data"])
            for row in rows:
                if row["name"] != kept:
                    http.delete(f"{path}/{row['id']}")
