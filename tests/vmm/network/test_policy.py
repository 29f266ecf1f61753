"""How a network policy is written, and what is refused."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import InvalidInput
from vmm.network.policy import MAX_ENTRIES, Mode, Policy

labels = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda it: it[2:4] != "--")
networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)).map(lambda it: IPv4Network(it, strict=False))
ports = st.integers(1, 65535)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    above = draw(st.lists(labels, min_size=1, max_size=4))
    top = draw(labels.filter(lambda label: not label.isdigit()))
    return draw(st.sampled_from(["", "*."])) + ".".join((*above, top))


@given(st.lists(patterns(), max_size=5), st.lists(networks, max_size=5), st.lists(ports, max_size=5))
def test_an_allow_list_is_read_back_as_it_was_written(
    names: list[str], networks: list[IPv4Network], ports: list[int]
) -> None:
    policy = Policy(mode=Mode.ALLOW, names=tuple(names), networks=tuple(networks), ports=tuple(ports))
    if names or networks:
        assert Policy.parse(policy.text()) == policy
        assert Policy.parse(policy.text().split(",")) == policy
        assert Policy.parse(policy.text()).text() == policy.text()


@given(st.text() | st.lists(st.text()) | st.from_regex(r"[a-z0-9.:/@*,\[\] -]{0,40}", fullmatch=True))
def test_whatever_is_written_is_either_a_policy_or_refused_with_words(value: str | list[str]) -> None:
    try:
        policy = Policy.parse(value)
    except InvalidInput as error:
        assert error.message.startswith("network must ")
    else:
        assert Policy.parse(policy.text()) == policy


@pytest.mark.parametrize("word", ["none", "internet", "packages", "learn"])
def test_a_word_is_a_policy_of_its_own(word: str) -> None:
    assert Policy.parse(word).mode == word
    assert Policy.parse([f" {word.upper()} "]) == Policy.parse(word)
    assert Policy.parse(word).text() == word


def test_the_order_and_repetitions_of_a_list_do_not_matter() -> None:
    one = Policy.parse("443/tcp, *.Example.COM., example.com, 198.51.100.7/32, 203.0.113.0/24")
    other = Policy.parse(["203.0.113.0/24", "198.51.100.7", "example.com", "*.example.com", "443/tcp", "443/TCP", ""])
    assert one == other
    assert one.text() == "*.example.com,example.com,198.51.100.7,203.0.113.0/24,443/tcp"


def test_a_name_in_another_script_is_taken_in_its_ascii_form() -> None:
    with pytest.raises(InvalidInput, match=r"write it as xn--bcher-kva\.example\.com"):
        Policy.parse("bücher.example.com")
    with pytest.raises(InvalidInput, match=r"write it as \*\.xn--fsqu00a\.xn--0zwm56d"):
        Policy.parse("*.例子.测试")
    assert Policy.parse("xn--bcher-kva.example.com").names == ("xn--bcher-kva.example.com",)


@pytest.mark.parametrize(
    "imitation",
    [
        "ex\N{CYRILLIC SMALL LETTER A}mple.com",
        "exampl\N{GREEK SMALL LETTER EPSILON}.com",
        "\N{FULLWIDTH LATIN SMALL LETTER E}xample.com",
        "*.ex\N{CYRILLIC SMALL LETTER A}mple.com",
        "xn--exmple-4nf.com",  # the first of these, encoded
    ],
)
def test_a_name_that_imitates_another_is_refused(imitation: str) -> None:
    with pytest.raises(InvalidInput, match="must not mix scripts"):
        Policy.parse(imitation)


def test_scripts_that_a_language_mixes_are_no_imitation() -> None:
    with pytest.raises(InvalidInput, match="write it as xn--"):
        Policy.parse("日本のテスト.example.com")


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("", "must be none, internet, packages, learn", 'use "none"'),
        ([], "must be none, internet, packages, learn", 'use "none"'),
        (" , ,", "must be none, internet, packages, learn", 'use "none"'),
        ("inet", "must be none, internet, packages, learn or an allow list, got 'inet'", "example.com"),
        ("allow", "must name what to allow", "example.com"),
        (["internet", "example.com"], 'must have "internet" alone', "either"),
        (["packages", "none"], 'must have "packages" alone', "either"),
        ("443/tcp", "must have a name or a network beside its ports", "example.com, 443/tcp"),
        ("0.0.0.0/0", "must not list every address", 'Use "internet"'),
        ("example.com:443", "must have ports as entries of their own", "example.com, 443/tcp"),
        ("198.51.100.7:443", "must have ports as entries of their own", "198.51.100.7, 443/tcp"),
        ("https://example.com/path?a=b", "must have names, not URLs", "Write example.com."),
        ("user@example.com", "must have names, not URLs", "Write example.com."),
        ("example.com/path", "must have names without paths", "Write example.com."),
        ("198.51.100.7/24", "must have networks by their first address", "198.51.100.0/24"),
        ("198.51.100.0/255.255.255.0", "must have addresses such as", ""),
        ("198.51.100.0/33", "must have addresses such as", ""),
        ("198.51.100.256", "must have addresses such as", ""),
        ("198.51.100.07", "must have addresses such as", ""),
        ("198.51.100", "must be a name or a complete IPv4 address", "four numbers"),
        ("2001:db8::1", "must have IPv4 addresses only", "no IPv6"),
        ("[2001:db8::]/32", "must have IPv4 addresses only", "no IPv6"),
        ("*", "must have a wildcard as a whole first label", "internet"),
        ("*.com", "must have at least two labels after a wildcard", "*.example.com"),
        ("*.*.com", "must have a wildcard as a whole first label", "*.example.com"),
        ("a*.example.com", "must have a wildcard as a whole first label", "*.example.com"),
        ("example.*", "must have a wildcard as a whole first label", "*.example.com"),
        ("exam ple.com", "must be a name of letters, digits and hyphens", "Examples"),
        ("-a.example.com", "must be a name of letters, digits and hyphens", "Examples"),
        (f"{'a' * 64}.example.com", "must be a name of letters, digits and hyphens", "Examples"),
        ("a." * 130 + "example.com", "must be a name of letters, digits and hyphens", "Examples"),
        ("example..com", "must be a name of letters, digits and hyphens", "Examples"),
        ("xn--zzzzzz99999.example.com", "must have valid internationalized labels", ""),
        ("443", "must name ports with their protocol", "443/tcp"),
        ("53/udp", "must name TCP ports only", "DNS is answered"),
        (["example.com", "0/tcp"], "must have ports from 1 to 65535", ""),
        (["example.com", "65536/tcp"], "must have ports from 1 to 65535", ""),
        (["example.com", "8000-8010/tcp"], "must have ports from 1 to 65535", ""),
        (["example.com", 443], "must be a list of texts", ""),
        ([f"a{n}.example.com" for n in range(MAX_ENTRIES + 1)], f"at most {MAX_ENTRIES} entries", "wildcards"),
        (",".join(f"a{n}.example.com" for n in range(10_000)), f"at most {MAX_ENTRIES} entries", "wildcards"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_way_out(value: str | list[str], message: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Policy.parse(value)
    assert message in refusal.value.message
    assert hint in refusal.value.hint
    assert len(str(refusal.value)) < 500


def test_as_many_entries_as_allowed_are_a_policy() -> None:
    policy = Policy.parse([f"a{n}.example.com" for n in range(MAX_ENTRIES)])
    assert len(policy.names) == MAX_ENTRIES
    assert Policy.parse(policy.text()) == policy


def test_an_error_names_the_field_and_never_a_password() -> None:
    with pytest.raises(InvalidInput, match=r"^CASEMATE_NETWORK must ") as refusal:
        Policy.parse("https://user:secret@example.com", field="CASEMATE_NETWORK")
    assert "secret" not in str(refusal.value)
