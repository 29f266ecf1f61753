"""Keys of the configuration: long enough, told apart, and never repeated."""

from __future__ import annotations

import pytest

from auth.errors import InvalidAccount
from auth.principal import Principal
from auth.static_keys import StaticKeys

PRINCIPAL = Principal(org_id="o", user_id="u", key_id="local")


def test_each_key_speaks_for_the_principal_under_an_id_of_its_own() -> None:
    texts = ["first-key-of-the-configuration", "second-key-of-the-configuration"]
    keys = StaticKeys(texts, PRINCIPAL)
    first, second = (keys.check(text) for text in texts)
    assert first is not None
    assert second is not None
    assert (first.org_id, first.user_id) == ("o", "u")
    assert len({first.key_id, second.key_id, PRINCIPAL.key_id}) == 3
    for text in texts:
        assert text not in repr((keys, vars(keys), first))


@pytest.mark.parametrize("text", ["", "first", "first-key-of-the-configuratioN", "x" * 1_000_000, "é" * 30])
def test_other_texts_are_nobody(text: str) -> None:
    assert StaticKeys(["first-key-of-the-configuration"], PRINCIPAL).check(text) is None
    assert StaticKeys([], PRINCIPAL).check(text) is None


@pytest.mark.parametrize("text", ["", "x" * 23, "x" * 513, "with a blank between the words", "é" * 30, "tab\t" * 10])
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused(text: str) -> None:
    with pytest.raises(InvalidAccount, match="number 2") as refused:
        StaticKeys(["first-key-of-the-configuration", text], PRINCIPAL)
    assert not text or text not in str(refused.value)
