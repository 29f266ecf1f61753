"""How many pictures of terminals are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from mcp_server.screens import Screens

if TYPE_CHECKING:
    from vmm.fleet import Fleet


@pytest.mark.parametrize(("size", "kept"), [((80, 24), 64), ((1000, 300), 3), ((1000, 1000), 1)])
def test_pictures_of_large_terminals_give_way_sooner(size: tuple[int, int], kept: int) -> None:
    screens = Screens(cast("Fleet", None))
    for number in range(70):
        screens._picture(("sandbox", "machine", str(number))).emulator.resize(*size)
        screens._forget_unseen()
    assert [key[2] for key in screens._pictures] == [str(number) for number in range(70 - kept, 70)]
