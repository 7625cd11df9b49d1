"""What a standby takes for a launch spec, without an engine."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cahoots_vllm.core.launch import WORKER_MARK
from cahoots_vllm.worker import launcher, standby
from cahoots_vllm.worker.launcher import RefusedError, changed_names, hear, read_spec

SECRET = "hf_" + "0123456789abcdef"


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    path = tmp_path / "vllm"
    path.touch()
    return path


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_reason_is_said_whole_so_that_a_secret_in_it_is_known(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    def fail(*_: object) -> list[str]:
        raise ValueError("x" * 480 + SECRET)

    def say(sock: socket.socket, **message: object) -> None:
        told.append(message)
        sock.close()

    monkeypatch.setattr(launcher, "stand_by", fail)
    monkeypatch.setattr(launcher, "say", say)
    monkeypatch.setattr(os, "_exit", sys.exit)
    argv = ["launcher.py", "--room", "0", "--fd", str(os.dup(pair[1].fileno()))]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        launcher.main()
    assert told == [{"state": "refused", "why": f"ValueError: {'x' * 480}{SECRET}"}]


def test_longest_reason_is_a_line_that_the_daemon_takes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    launcher.say(theirs, state="refused", why="\U0001f600" * launcher.WHY_CHARS)
    assert len(hear(ours)[0]) < standby._MESSAGE_BYTES  # noqa: SLF001 (it must not be exceeded)


def test_mark_is_the_daemons() -> None:
    assert launcher.MARK == WORKER_MARK


def test_whole_spec_is_taken(vllm: Path) -> None:
    argv = [str(vllm), "serve", "model", "--uds", "x"]
    spec = read_spec(json.dumps({"argv": argv, "env": {"A": "b"}, "cwd": "/"}).encode(), vllm)
    assert (spec.argv, spec.env, spec.cwd) == (argv, {"A": "b"}, "/")


@pytest.mark.parametrize(
    "change",
    [
        {"argv": None},
        {"argv": "vllm serve"},
        {"argv": []},
        {"argv": [1, 2]},
        {"argv": ["/bin/sh", "serve"]},
        {"env": []},
        {"env": {"A": 1}},
        {"env": {"A": "b\0c"}},
        {"cwd": 7},
        {"more": True},
    ],
)
def test_anything_else_is_refused_without_its_values(vllm: Path, change: dict[str, object]) -> None:
    spec: dict[str, object] = {"argv": [str(vllm), "serve"], "env": {"TOKEN": SECRET}, "cwd": "/"}
    with pytest.raises(RefusedError) as refused:
        read_spec(json.dumps(spec | change).encode(), vllm)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("line", [b"", b"\x00\xff garbage", b"[" * 100_000, b"null", b"[]", b"{}"])
def test_garbage_is_refused(vllm: Path, line: bytes) -> None:
    with pytest.raises(RefusedError):
        read_spec(line, vllm)


def test_another_command_of_this_engine_is_refused(vllm: Path) -> None:
    spec = {"argv": [str(vllm), "bench"], "env": {}, "cwd": "/"}
    with pytest.raises(RefusedError):
        read_spec(json.dumps(spec).encode(), vllm)


def test_changed_variables_are_named_except_the_mark() -> None:
    before = {"A": "1", "B": "2", "C": "3", WORKER_MARK: "run#1"}
    wanted = {"A": "1", "B": SECRET, "D": "4", WORKER_MARK: "run#2"}
    assert changed_names(before, wanted) == ["B", "C", "D"]


def test_name_that_a_shell_drops_is_no_difference() -> None:
    assert changed_names({}, {"VLLM_A.B": "1", "HF-C": "2", "3D": "3", "É": "4"}) == []
    assert changed_names({}, {"_VLLM_4": "5"}) == ["_VLLM_4"]


def test_line_comes_whole_with_its_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    socket.send_fds(ours, [b"first half, "], [write_end])
    ours.sendall(b"second half\nand more")
    line, (fd,) = hear(theirs)
    assert line == b"first half, second half"
    for end in (read_end, write_end, fd):
        os.close(end)


def test_end_of_file_is_no_line(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(b"begun")
    ours.close()
    assert hear(theirs) == (b"", [])


def test_endless_line_is_refused_at_its_bound(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sent = threading.Thread(target=ours.sendall, args=(b"x" * (launcher.SPEC_BYTES + 1),))
    sent.start()
    with pytest.raises(RefusedError, match="too long"):
        hear(theirs)
    sent.join()


def test_more_descriptors_than_an_output_has_are_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    socket.send_fds(ours, [b"line\n"], [0, 1, 2])
    with pytest.raises(RefusedError, match="two descriptors"):
        hear(theirs)
