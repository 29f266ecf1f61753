"""Which names a pattern covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.network.test_policy import labels
from vmm.network.names import NamePatterns

hosts = st.lists(labels, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "www.example.com", False),
        ("example.com", "notexample.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "www.example.com.example.org", False),
        ("*.example.com", "notexample.com", False),
        ("*.example.com", "*.example.com", True),
        ("example.com", "", False),
        ("example.com", ".", False),
    ],
)
def test_a_pattern_covers_a_name(pattern: str, name: str, covered: bool) -> None:
    assert NamePatterns([pattern]).cover(name) is covered


@given(hosts, hosts)
def test_a_wildcard_covers_exactly_the_names_that_end_with_its_domain(domain: str, name: str) -> None:
    patterns = NamePatterns([f"*.{domain}"])
    assert patterns.cover(f"{name}.{domain}")
    assert patterns.cover(f"{name}.{domain}".upper() + ".")
    assert not patterns.cover(domain)
    assert not patterns.cover(f"{name}{domain}") or f"{name}{domain}".endswith(f".{domain}")
    assert patterns.cover(name) == name.endswith(f".{domain}")


@given(st.sets(hosts, max_size=5), hosts)
def test_a_name_without_wildcard_covers_itself_alone(written: set[str], name: str) -> None:
    assert NamePatterns(written).cover(name) == (name in written)
