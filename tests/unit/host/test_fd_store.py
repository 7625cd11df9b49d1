"""Descriptors taken over, stored and carried."""

import os
from collections.abc import Iterator, Sequence

import pytest

from cahoots_vllm.host.fd_store import FdStore


class Manager:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def send(self, message: str, descriptors: Sequence[int]) -> None:
        self.told.append((message.replace("\n", " "), len(descriptors)))


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    found = [*os.pipe(), *os.pipe()]
    yield found
    for descriptor in found:
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test closed it


def test_what_systemd_passes_is_taken_once_by_its_name() -> None:
    env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0", "LISTEN_FDNAMES": "", "A": "b"}
    store = FdStore(env, Manager().send)
    assert env == {"A": "b"}
    assert store.take("control") == []


def test_descriptors_meant_for_another_process_are_left_alone() -> None:
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c"}
    assert FdStore(env, Manager().send).take("a") == []


def test_carried_descriptors_come_back_closed_to_children(pipes: list[int]) -> None:
    first, env = FdStore({}, Manager().send), dict[str, str]()
    first.put("output-1", pipes[0])
    first.put("gateway", pipes[1])
    first.put("gateway", pipes[2])
    first.carry(env)
    assert [os.get_inheritable(fd) for fd in pipes[:3]] == [True, True, True]
    assert not os.get_inheritable(pipes[3])
    second = FdStore(env, Manager().send)
    assert env == {}
    assert (second.take("gateway"), second.take("output-1")) == ([pipes[1], pipes[2]], [pipes[0]])
    assert second.take("gateway") == []
    assert not any(os.get_inheritable(fd) for fd in pipes)


def test_manager_is_told_what_to_keep_and_what_no_longer(pipes: list[int]) -> None:
    manager = Manager()
    store = FdStore({}, manager.send)
    store.put("control", pipes[0])
    store.put("output-1", pipes[1], is_polled=False)
    store.drop("control")
    store.drop("never there")
    assert manager.told == [
        ("FDSTORE=1 FDNAME=control", 1),
        ("FDSTORE=1 FDNAME=output-1 FDPOLL=0", 1),
        ("FDSTOREREMOVE=1 FDNAME=control", 0),
    ]


def test_what_nobody_takes_is_closed_and_stored_no_longer(pipes: list[int]) -> None:
    manager, env = Manager(), dict[str, str]()
    first = FdStore({}, manager.send)
    first.put("output-1", pipes[0])
    first.put("control", pipes[1])
    first.carry(env)
    second = FdStore(env, manager.send)
    (control,) = second.take("control")
    second.put("control", control)
    manager.told.clear()
    second.close_rest()
    assert manager.told == [("FDSTOREREMOVE=1 FDNAME=output-1", 0)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipes[0])
    os.fstat(control)
