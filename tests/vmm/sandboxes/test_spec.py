from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import InvalidInput
from vmm.sandboxes.spec import SandboxSpec, check_labels, check_name

IMAGES = ("code", "minimal")


def refusal(**values: object) -> str:
    spec = SandboxSpec(**({"name": "box"} | values))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as refused:
        spec.check(IMAGES)
    return str(refused.value)


def test_a_plain_spec_is_accepted() -> None:
    SandboxSpec(name="my-box-1", labels={"team": "red"}, env={"TOKEN": "x"}).check(IMAGES)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a..b", "a b", "a\n", "ä", "a" * 64])
def test_a_bad_name_is_refused_and_shown(name: str) -> None:
    assert "name" in refusal(name=name)


def test_a_name_of_a_megabyte_is_refused_without_repeating_it() -> None:
    assert len(refusal(name="x" * 1_000_000)) < 200


@pytest.mark.parametrize("cpu", [0, -1, 9])
def test_cpu_out_of_range_is_refused_with_the_range(cpu: int) -> None:
    assert refusal(cpu=cpu) == f"cpu must be 1 to 8 virtual CPUs, got {cpu}"


@pytest.mark.parametrize("mem", [0, 255, 16385, 17 * 1024 * 1024])
def test_memory_out_of_range_is_refused_with_the_range(mem: int) -> None:
    assert refusal(mem=mem) == f"mem must be 256 to 16384 MiB, got {mem}"


def test_an_unknown_image_is_refused_with_the_known_ones() -> None:
    assert refusal(image="ubuntu") == "image must be code or minimal, got 'ubuntu'"


@pytest.mark.parametrize("network", ["all", "0.0.0.0/0", "example.com:443", "https://example.com", "443/tcp", "*"])
def test_a_network_that_is_no_policy_is_refused(network: str) -> None:
    assert refusal(network=network).startswith("network must ")


def test_ten_thousand_rules_are_refused_without_repeating_them() -> None:
    assert len(refusal(network=",".join(f"n{number}.example.com" for number in range(10_000)))) < 200


@pytest.mark.parametrize(
    "labels",
    [
        {str(n): "v" for n in range(6)},
        {"A": "v"},
        {"k" * 21: "v"},
        {"k": "v" * 21},
        {"k": "a,b"},
        {"k": "a=b"},
        {"k": "\n"},
    ],
)
def test_bad_labels_are_refused(labels: dict[str, str]) -> None:
    assert refusal(labels=labels).startswith("labels must ")


@pytest.mark.parametrize("env", [{"1A": "v"}, {"": "v"}, {"A=B": "v"}, {"A": "\0"}, {"A": "v" * 100_000}])
def test_a_bad_environment_is_refused_without_its_values(env: dict[str, str]) -> None:
    message = refusal(env=env)
    assert message.startswith("env must ")
    assert "vvv" not in message


@given(st.from_regex(r"[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,2}", fullmatch=True))
def test_every_dns_label_is_a_name(name: str) -> None:
    check_name(name)


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=7))
def test_accepted_labels_work_in_a_selector(labels: dict[str, str]) -> None:
    try:
        check_labels(labels)
    except InvalidInput:
        return
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    assert dict(part.split("=", 1) for part in selector.split(",") if part) == labels
