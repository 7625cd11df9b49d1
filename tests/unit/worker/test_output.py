"""The output pump: bytes in whatever pieces become lines, and no secret gets through."""

import asyncio
import os
import subprocess
import time

import pytest

from cahoots_vllm.worker.output import OutputPump

SECRET = "hf_" + "0123456789abcdef"


async def pumped(*pieces: bytes, secrets: tuple[str, ...] = (SECRET,)) -> list[str]:
    """Write the pieces, each read by itself, and return the lines."""
    lines: list[str] = []
    read_end, write_end = os.pipe()
    pump = OutputPump(read_end, lines.append, secrets)
    for piece in pieces:
        os.write(write_end, piece)
        await asyncio.sleep(0.001)
    os.close(write_end)
    pump.drain()
    pump.close()
    assert list(pump.lines) == lines
    return lines


async def test_lines_come_whole_however_they_were_written() -> None:
    lines = await pumped(b"one\ntw", b"o\n", b"", b"thr", b"ee")
    assert lines == ["one", "two", "three"]


async def test_each_step_of_a_progress_bar_is_a_line() -> None:
    lines = await pumped(b"\rLoading: 0%\rLoading: 50%", b"\rLoading: 100%\n")
    assert lines == ["Loading: 0%", "Loading: 50%", "Loading: 100%"]


async def test_crlf_split_between_two_reads_makes_no_empty_line() -> None:
    assert await pumped(b"a\r", b"\nb\r\n", b"\r\nc") == ["a", "b", "c"]


async def test_character_split_between_two_reads_stays_whole() -> None:
    raw = "Größe █\n".encode()
    for cut in range(len(raw)):
        assert await pumped(raw[:cut], raw[cut:]) == ["Größe █"]


async def test_bytes_that_are_no_text_do_not_stop_it() -> None:
    assert await pumped(b"\xff\xfe\nnext\n") == ["��", "next"]


@pytest.mark.parametrize("cut", range(0, 60, 3))
async def test_secret_split_between_two_reads_is_masked(cut: int) -> None:
    raw = f"the token {SECRET} was refused, {SECRET}\n".encode()
    lines = await pumped(raw[:cut], raw[cut:])
    assert lines == ["the token *** was refused, ***"]


@pytest.mark.parametrize("before", range(3975, 4005, 2))
async def test_secret_across_the_end_of_an_overlong_line_is_masked(before: int) -> None:
    """A line without an end is given out in pieces; no piece may hold half a secret."""
    raw = b"x" * before + SECRET.encode() + b"y" * 5000
    for pieces in ((raw,), (raw[:4001], raw[4001:]), (raw[: before + 8], raw[before + 8 :])):
        said = "".join(await pumped(*pieces))
        for length in range(6, len(SECRET)):
            assert SECRET[:length] not in said
            assert SECRET[-length:] not in said


async def test_longer_secret_is_masked_before_one_that_is_part_of_it() -> None:
    lines = await pumped(b"abcdefghi abcdef\n", secrets=("abcdef", "abcdefghi"))
    assert lines == ["*** ***"]


async def test_value_too_short_for_a_secret_masks_nothing() -> None:
    assert await pumped(b"1,111 tokens\n", secrets=("1",)) == ["1,111 tokens"]


async def test_flood_does_not_keep_the_loop() -> None:
    with subprocess.Popen(["/usr/bin/yes"], stdout=subprocess.PIPE) as flood:  # noqa: ASYNC220 (a writer, no more)
        assert flood.stdout is not None
        pump = OutputPump(os.dup(flood.stdout.fileno()), lambda _: None, ())
        pump.drain()
        pump.close()
        flood.kill()


async def test_secret_of_several_lines_is_masked_line_by_line() -> None:
    lines = await pumped(b"key: abcdefgh\n12345678\n", secrets=("abcdefgh\n12345678\n",))
    assert lines == ["key: ***", "***"]


async def test_too_many_lines_at_once_lose_their_middle_and_say_so() -> None:
    lines = await pumped(b"".join(b"%d\n" % number for number in range(9000)))
    assert lines[0] == "0"
    assert lines[-1] == "8999"
    (said,) = (line for line in lines if "left out" in line)
    assert lines.index(said) == 1000
    assert int(said.split()[0].strip("(")) + len(lines) - 1 == 9000


async def test_others_have_their_turn_while_many_lines_are_taken() -> None:
    turns: list[int] = []
    lines: list[str] = []
    are_all_there = asyncio.Event()

    def slow(text: str) -> None:
        end = time.perf_counter() + 0.001  # as long as a line costs, times ten
        while time.perf_counter() < end:
            continue
        lines.append(text)
        if len(lines) == 200:
            are_all_there.set()

    async def count() -> None:
        while True:
            turns.append(len(lines))
            await asyncio.sleep(0)

    read_end, write_end = os.pipe()
    pump = OutputPump(read_end, slow, ())
    os.write(write_end, b"line\n" * 200)
    counting = asyncio.create_task(count())
    await are_all_there.wait()
    counting.cancel()
    pump.close()
    os.close(write_end)
    # Between the lines, not before and after all of them.
    assert len(set(turns)) > 5


async def test_what_is_written_after_a_drain_is_read_as_well() -> None:
    lines: list[str] = []
    read_end, write_end = os.pipe()
    pump = OutputPump(read_end, lines.append, ())
    os.write(write_end, b"one\n")
    pump.drain()
    assert lines == ["one"]
    os.write(write_end, b"two\n")
    await asyncio.sleep(0.02)
    assert lines == ["one", "two"]
    pump.close()
    os.close(write_end)


async def test_empty_secret_masks_nothing() -> None:
    assert await pumped(b"plain\n", secrets=("",)) == ["plain"]


async def test_overlong_line_is_bounded() -> None:
    lines = await pumped(*[b"x" * 60_000] * 4, b"\nnext\n")
    assert lines[-1] == "next"
    assert max(map(len, lines)) <= 4000


async def test_only_the_last_lines_are_kept() -> None:
    read_end, write_end = os.pipe()
    pump = OutputPump(read_end, lambda _: None, ())
    for start in range(0, 6000, 1000):
        os.write(write_end, b"".join(b"%d\n" % n for n in range(start, start + 1000)))
        pump.drain()
    pump.close()
    os.close(write_end)
    assert (len(pump.lines), pump.lines[-1]) == (5000, "5999")
