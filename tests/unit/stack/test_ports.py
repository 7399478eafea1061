"""Ports: what is asked for, then where it runs, then the last time's, then a free one."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.errors import PortInUseError
from stack.ports import HOST, Ports, choose, free_port, is_free, load, save, verify


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which a stranger listens."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_with_a_listener_is_not_free(taken: int) -> None:
    assert not is_free(taken)
    assert is_free(free_port(set()))


def test_nothing_asked_and_nothing_remembered_gives_four_different_free_ports() -> None:
    chosen = choose(Ports(), Ports(), Ports())
    ports = {chosen.kafka, chosen.registry, chosen.redis, chosen.controller}
    assert len(ports) == 4
    assert all(is_free(port) for port in ports)


def test_ports_stay_below_those_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port(set()) < 32_768 for _ in range(20))


def test_a_restart_comes_back_on_the_same_ports() -> None:
    first = choose(Ports(), Ports(), Ports())
    assert choose(Ports(), first, Ports()) == first


def test_a_remembered_port_that_a_stranger_has_is_replaced(taken: int) -> None:
    first = choose(Ports(), Ports(), Ports())
    remembered = Ports(first.kafka, first.registry, taken, first.controller)
    chosen = choose(Ports(), remembered, Ports())
    assert chosen.redis != taken
    assert (chosen.kafka, chosen.registry) == (first.kafka, first.registry)


def test_a_running_service_keeps_its_port_though_it_is_not_free(taken: int) -> None:
    assert choose(Ports(), Ports(), Ports(kafka=taken)).kafka == taken


def test_what_is_asked_for_comes_first() -> None:
    first = choose(Ports(), Ports(), Ports())
    asked = free_port(set())
    assert choose(Ports(redis=asked), first, Ports()).redis == asked


def test_a_remembered_port_that_another_service_is_asked_to_take_is_not_given_twice() -> None:
    first = choose(Ports(), Ports(), Ports())
    chosen = choose(Ports(kafka=first.redis), first, Ports())
    assert chosen.kafka == first.redis
    assert chosen.redis != first.redis


def test_asking_for_a_strangers_port_is_one_clear_sentence(taken: int) -> None:
    with pytest.raises(PortInUseError, match=f"Port {taken}, asked for registry, is used by another process") as caught:
        verify(Ports(registry=taken), own=set())
    assert caught.value.hint


def test_asking_for_a_port_that_is_ours_already_is_fine(taken: int) -> None:
    verify(Ports(registry=taken), own={taken})


def test_one_port_for_two_services_is_refused() -> None:
    port = free_port(set())
    with pytest.raises(PortInUseError, match="twice"):
        verify(Ports(kafka=port, redis=port), own=set())


def test_saved_ports_are_read_again(tmp_path: Path) -> None:
    save(tmp_path / "ports.json", Ports(1, 2, 3, 4))
    assert load(tmp_path / "ports.json") == Ports(1, 2, 3, 4)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kafka": "x"}', "null"])
def test_a_broken_file_means_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports.json").write_text(text)
    assert load(tmp_path / "ports.json") == Ports()
