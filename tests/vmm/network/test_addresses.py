"""How long the names of an address are known."""

from __future__ import annotations

from ipaddress import IPv4Address

from vmm.network import addresses
from vmm.network.addresses import AddressBook

ONE, TWO = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_address_has_the_names_that_were_answered_with_it() -> None:
    book = AddressBook(Clock())
    book.add("Example.com.", ONE, 300)
    book.add("example.org", ONE, 300)
    book.add("example.com", TWO, 300)
    assert book.names(ONE) == {"example.com", "example.org"}
    assert book.names(TWO) == {"example.com"}
    assert book.names(IPv4Address("198.51.100.3")) == frozenset()


def test_a_name_is_forgotten_after_its_time_which_a_new_answer_extends() -> None:
    clock = Clock()
    book = AddressBook(clock)
    book.add("example.com", ONE, 300)
    book.add("example.org", ONE, 600)
    clock.now += 299
    assert book.names(ONE) == {"example.com", "example.org"}
    book.add("example.org", ONE, 600)
    clock.now += 1
    assert book.names(ONE) == {"example.org"}
    clock.now += 600
    assert book.names(ONE) == frozenset()
    assert len(book) == 0


def test_a_time_is_at_least_a_minute_and_at_most_a_day() -> None:
    clock = Clock()
    book = AddressBook(clock)
    book.add("example.com", ONE, 0)
    book.add("example.com", TWO, 2**31 - 1)
    clock.now += 59
    assert book.names(ONE) == {"example.com"}
    clock.now += 1
    assert book.names(ONE) == frozenset()
    clock.now += 24 * 3600
    assert book.names(TWO) == frozenset()


def test_an_open_connection_keeps_the_names_of_its_address() -> None:
    clock = Clock()
    book = AddressBook(clock)
    book.add("example.com", ONE, 60)
    with book.held(ONE):
        with book.held(ONE):
            clock.now += 3600
        assert book.names(ONE) == {"example.com"}
    assert book.names(ONE) == frozenset()


def test_the_oldest_answers_make_room_but_those_of_open_connections_stay() -> None:
    book = AddressBook(Clock())
    book.add("first.example.com", ONE, 300)
    book.add("second.example.com", TWO, 300)
    with book.held(ONE):
        for n in range(addresses.MOST):
            book.add(f"a{n}.example.com", IPv4Address("192.0.2.0") + n, 300)
        assert book.names(ONE) == {"first.example.com"}
    assert book.names(TWO) == frozenset()
    assert len(book) == addresses.MOST


def test_a_book_is_bounded_even_if_every_address_is_in_use() -> None:
    book = AddressBook(Clock())
    with book.held(ONE):
        for n in range(addresses.MOST + 10):
            book.add(f"a{n}.example.com", ONE, 300)
    assert len(book) == addresses.MOST
    assert "a0.example.com" not in book.names(ONE)
