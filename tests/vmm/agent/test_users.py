from __future__ import annotations

import os
import pwd

import pytest

from vmm.agent.refusals import RefusalError
from vmm.agent.users import Users


def test_a_user_is_found_by_name_and_by_number() -> None:
    known = pwd.getpwuid(0)
    by_name, by_number = Users().find(known.pw_name.encode()), Users().find(b"0")
    assert by_name == by_number
    assert (by_name.uid, by_name.gid, by_name.home) == (0, known.pw_gid, known.pw_dir.encode())


def test_an_empty_name_is_the_agents_own_user() -> None:
    assert Users().find(b"").uid == os.geteuid()


def test_a_user_has_the_same_groups_as_in_the_c_library() -> None:
    for entry in pwd.getpwall():
        assert set(Users().find(entry.pw_name.encode()).groups) == set(os.getgrouplist(entry.pw_name, entry.pw_gid))


def test_an_unknown_user_is_refused_by_name() -> None:
    with pytest.raises(RefusalError, match="no-such-user"):
        Users().find(b"no-such-user")
