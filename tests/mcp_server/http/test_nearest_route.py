"""Which route somebody may have meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.http.nearest_route import NearestRoute

PATHS = ("/api/sandboxes", "/api/sandboxes/{id}", "/api/sandboxes/{id}/exec", "/api/sandboxes/{id}/files/{name}", "/up")


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/sandbox", "/api/sandboxes"),
        ("api/sandboxes/", "/api/sandboxes"),
        ("/API/sandboxes/" + "f" * 150 + "/exec", "/api/sandboxes/{id}/exec"),
        ("/api/sandboxes/x/file/y", "/api/sandboxes/{id}/files/{name}"),
        ("/upp", "/up"),
        ("/nothing/like/it", ""),
        ("", ""),
        ("/", ""),
        ("/" * 10_000, ""),
    ],
)
def test_the_nearest_route_is_found_whatever_stands_for_its_parameters(path: str, route: str) -> None:
    assert NearestRoute(PATHS).to(path) == route


@given(st.text(max_size=300))
def test_any_path_has_an_answer_that_repeats_nothing_of_it(path: str) -> None:
    assert NearestRoute(PATHS).to(path) in {"", *PATHS}
