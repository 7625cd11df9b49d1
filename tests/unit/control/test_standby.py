"""When a standby is kept, and what is said where there is none; its process is a stand-in."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cahoots_vllm.control import standby as module
from cahoots_vllm.control import standby_maker, standby_wish
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import StandbyMode
from cahoots_vllm.host.gpu import Gpu

from .fake_standby import (
    LAUNCH,
    PLENTY,
    SCARCE,
    SETTINGS,
    Fake,
    Gpus,
    Notes,
    keeper,
    look,
    mark,
    state,
)

# Held by the pid of each Fake.
HELD = SimpleNamespace(index=3, processes=[SimpleNamespace(pid=1)])


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Fake]:
    """Return the standbys that were started."""
    Fake.made = []
    monkeypatch.setattr(standby_maker, "start_standby", Fake)
    monkeypatch.setattr(module, "find_standby", lambda _, __, on_news: Fake(on_news=on_news))
    monkeypatch.setattr(module, "mark_standby", mark)
    monkeypatch.setattr(standby_wish, "protocol_print", lambda: "as it is")
    monkeypatch.setattr(standby_maker, "AGAIN_S", 0.0)
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    monkeypatch.setattr(module, "read_memory", lambda _: PLENTY)
    monkeypatch.setattr(standby_wish, "fingerprint", lambda _: "as it is")
    monkeypatch.setattr(
        standby_wish, "child_environment", lambda *_, **__: {"VLLM_CACHE_ROOT": str(tmp_path)}
    )
    return Fake.made


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """Return the file there is once a standby of the engine has become a worker."""
    path = tmp_path / "standby-1.modules"
    path.touch()  # as each that gets warm does
    return path


@pytest.fixture
def has_learned(learned: Path) -> None:
    learned.write_text("late\n")


async def test_why_there_never_was_one(monkeypatch: pytest.MonkeyPatch, made: list[Fake]) -> None:
    kept = keeper()
    monkeypatch.setattr(module, "read_memory", lambda _: SCARCE)
    assert "of memory would be left" in (await look(kept, state()) or "")
    monkeypatch.setattr(standby_wish, "fingerprint", lambda _: None)
    assert await look(kept, state()) == "the engine cannot be looked at"
    assert not made


async def test_an_old_reason_is_not_said_of_a_new_start(made: list[Fake]) -> None:
    kept = keeper()
    assert await look(kept, state(goal=None)) == "no worker is wanted"
    assert await look(kept, state(is_served=False)) is None
    assert await look(kept, state()) is None
    assert len(made) == 1


async def test_none_is_kept_where_a_start_has_begun_meanwhile(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    kept = keeper()
    # In the thread that makes the directory.
    monkeypatch.setattr(
        Path, "mkdir", lambda *_, **__: kept.update(state(is_served=False), SETTINGS)
    )
    await look(kept, state())
    assert [one.is_discarded for one in made] == [True]
    assert kept.status.state == "none"
    monkeypatch.undo()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nothing tells us but asking)
            await asyncio.sleep(0.01)


async def test_one_is_weighed_as_soon_as_it_is_warm_and_missed_as_soon_as_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 60.0)
    monkeypatch.setattr(standby_maker, "AGAIN_S", 300.0)
    monkeypatch.setattr(module, "private_bytes", lambda _: 7)
    kept = keeper()
    kept.update(state(), SETTINGS)
    run = asyncio.ensure_future(kept.run())
    await until(lambda: bool(made))
    made[0].get_warm()
    await until(lambda: kept.status.private_memory == 7)
    made[0].fail("ended")
    await until(lambda: kept.status.why == "the last one ended; another is tried in 5 min")
    run.cancel()


async def test_start_without_a_standby_begins_one(made: list[Fake], learned: Path) -> None:
    kept = keeper()
    assert await kept.take(LAUNCH, SETTINGS) is None
    learned.write_text("late\n")  # noqa: ASYNC240 (nothing else runs)
    kept.update(state(is_served=False), SETTINGS)
    taken: object = await kept.take(LAUNCH, SETTINGS)
    assert (taken, made) == (made[0], made)
    assert kept.status.state == "none"  # it is the worker's now


@pytest.mark.usefixtures("has_learned")
async def test_start_is_plain_where_a_standby_was_of_no_use(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    monkeypatch.setattr(standby_maker, "AGAIN_S", 300.0)
    kept = keeper()
    await kept.take(LAUNCH, SETTINGS)
    kept.failed("refused: no vLLM")
    assert await kept.take(LAUNCH, SETTINGS) is None
    assert len(made) == 1
    assert kept.status.why == "the last one refused: no vLLM; another is tried in 5 min"


@pytest.mark.usefixtures("has_learned")
async def test_start_is_plain_with_standby_off(made: list[Fake]) -> None:
    off = replace(SETTINGS, standby=StandbyMode.OFF)
    assert await keeper().take(LAUNCH, off) is None
    assert not made


@pytest.mark.usefixtures("has_learned")
async def test_none_is_begun_before_what_was_left_behind_is_gone(made: list[Fake]) -> None:
    kept = keeper()
    kept._is_tidy.clear()  # noqa: SLF001 (as it is until `run` has begun)
    begun = asyncio.ensure_future(kept.take(LAUNCH, SETTINGS))
    await asyncio.sleep(0.1)
    assert not made
    run = asyncio.ensure_future(kept.run())
    assert await begun is not None
    run.cancel()


async def test_one_that_was_of_no_use_is_still_the_reason_after_a_stop(made: list[Fake]) -> None:
    kept = keeper()
    await look(kept, state())
    for number in range(3):
        await look(kept, state())
        made[number].problem = "refused: no vLLM"
        await look(kept, state())
    await look(kept, state(goal=None))
    why = "3 in a row failed: the last one refused: no vLLM; another is tried in 60 min"
    assert await look(kept, state()) == why
    assert len(made) == 3


async def fail_three_times(kept: module.StandbyKeeper, made: list[Fake]) -> None:
    for number in range(3):
        await look(kept, state())
        made[number].problem = "refused: no vLLM"
        await look(kept, state())
    assert len(made) == 3


async def test_trouble_that_passes_costs_no_more_than_an_hour(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    monkeypatch.setattr(standby_maker, "SELDOM_S", 0.0)
    kept = keeper()
    await fail_three_times(kept, made)
    await look(kept, state())
    assert len(made) == 4
    made[3].problem = "refused: no vLLM"  # it goes on seldom
    assert (await look(kept, state()) or "").startswith("4 in a row failed: ")


async def test_another_engine_is_tried_at_once(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    kept = keeper()
    await fail_three_times(kept, made)
    monkeypatch.setattr(standby_wish, "fingerprint", lambda _: "another")
    await look(kept, state())
    assert len(made) == 4
    made[3].problem = "refused: no vLLM"  # the first one of this engine
    assert await look(kept, state()) == "the last one refused: no vLLM"


async def test_other_settings_try_again_at_once(made: list[Fake]) -> None:
    kept = keeper()
    await fail_three_times(kept, made)
    other = replace(SETTINGS, standby=StandbyMode.ON)
    kept.update(state(), other)
    await kept._look()  # noqa: SLF001 (its turns are what is tested)
    assert len(made) == 4
    made[3].problem = "refused: no vLLM"  # the first one of these settings
    await kept._look()  # noqa: SLF001 (as above)
    assert kept.status.why == "the last one refused: no vLLM"


async def test_another_model_does_not_try_again_what_failed(made: list[Fake]) -> None:
    kept = keeper()
    await fail_three_times(kept, made)
    for swapped in (
        replace(SETTINGS, override="b"),
        replace(SETTINGS, demanded="b"),
        replace(SETTINGS, configured_model="b"),
    ):
        kept.update(state(), swapped)
        await kept._look()  # noqa: SLF001 (its turns are what is tested)
    assert len(made) == 3


async def test_another_engine_is_not_tried_while_memory_was_just_scarce(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    kept = keeper()
    await fail_three_times(kept, made)
    monkeypatch.setattr(standby_wish, "fingerprint", lambda _: "another")
    await look(kept, state())
    monkeypatch.setattr(standby_maker, "AGAIN_S", 300.0)
    monkeypatch.setattr(module, "read_memory", lambda _: SCARCE)
    assert "of memory would be left" in (await look(kept, state()) or "")
    assert made[3].is_discarded
    monkeypatch.setattr(module, "read_memory", lambda _: PLENTY)
    monkeypatch.setattr(standby_wish, "fingerprint", lambda _: "a third one")
    assert "; another is tried in 5 min" in (await look(kept, state()) or "")
    assert len(made) == 4


async def test_what_is_put_off_is_said_once_and_only_while_it_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made: list[Fake]
) -> None:
    kept = keeper()
    for number in range(2):
        await look(kept, state())
        made[number].problem = "ended"
        monkeypatch.setattr(standby_maker, "AGAIN_S", 300.0 * number)
        await look(kept, state())
    assert caplog.messages == ["no standby is kept for the next start: the last one ended"]
    assert kept.status.why == "the last one ended; another is tried in 5 min"
    assert await look(kept, state(goal=None)) == "no worker is wanted"


async def test_ones_killed_once_they_were_warm_are_followed_as_before(made: list[Fake]) -> None:
    kept = keeper()
    for number in range(4):
        await look(kept, state())
        made[number].get_warm()
        made[number].problem = "ended"
        assert await look(kept, state()) == "the last one ended"


async def test_other_settings_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 60.0)
    monkeypatch.setattr(module, "read_memory", lambda _: SCARCE)
    kept = keeper()
    kept.update(state(), SETTINGS)
    run = asyncio.ensure_future(kept.run())
    await until(lambda: kept.status.why is not None)
    kept.update(state(), replace(SETTINGS, standby=StandbyMode.ON))
    await until(lambda: bool(made))
    run.cancel()


async def test_one_that_nobody_wants_any_more_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 60.0)
    kept = keeper()
    kept.update(state(), SETTINGS)
    run = asyncio.ensure_future(kept.run())
    await until(lambda: bool(made))
    kept.update(state(goal=None), SETTINGS)
    await until(lambda: made[0].is_discarded)
    run.cancel()


async def test_dead_one_is_not_called_warm(made: list[Fake]) -> None:
    kept = keeper()
    await look(kept, state())
    made[0].get_warm()
    assert kept.status.state == "warm"
    made[0].problem = "ended"
    assert (kept.status.state, kept.status.why) == ("none", "the last one ended")


async def test_start_that_finds_it_dead_says_so(
    caplog: pytest.LogCaptureFixture, made: list[Fake]
) -> None:
    kept = keeper()
    await look(kept, state())
    made[0].get_warm()
    made[0].problem = "ended"
    assert await kept.take(LAUNCH, SETTINGS) is None
    assert made[0].is_discarded
    assert caplog.messages == ["this start has no use of its standby, which ended"]


async def test_directory_that_cannot_be_made_is_named(made: list[Fake], tmp_path: Path) -> None:
    tmp_path.rmdir()  # noqa: ASYNC240 (nothing else runs)
    tmp_path.touch()  # noqa: ASYNC240 (as above)
    assert await look(keeper(), state()) == f"cannot start one: {tmp_path}: File exists"
    assert not made


async def test_engine_that_cannot_be_run_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[object] = []

    def refuse(*asked: object, **_: object) -> Fake:
        tried.append(asked)
        raise CahootsError(Kind.ENGINE_UNUSABLE, "cannot run the engine: gone", "install it")

    monkeypatch.setattr(standby_maker, "start_standby", refuse)
    kept = keeper()
    for _ in range(2):
        assert await look(kept, state()) == "cannot run the engine: gone"
    why = "3 in a row failed: cannot run the engine: gone; another is tried in 60 min"
    for _ in range(3):
        assert await look(kept, state()) == why
    assert len(tried) == 3


async def test_one_that_became_the_worker_meanwhile_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    kept = keeper()
    await look(kept, state())
    made[0].get_warm()
    given: list[object] = []

    class Busy(Gpus):
        async def read(self) -> tuple[Gpu, ...]:
            given.append(await kept.take(LAUNCH, SETTINGS))
            return await super().read()

    monkeypatch.setattr(kept, "_gpus", Busy(HELD))
    monkeypatch.setattr(module, "private_bytes", lambda _: 1)
    assert await look(kept, state()) is None
    assert given == [made[0]]
    assert not made[0].is_discarded


async def test_one_that_holds_memory_of_a_gpu_is_none(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    kept = keeper()
    await look(kept, state())
    made[0].get_warm()

    monkeypatch.setattr(kept, "_gpus", Gpus(HELD))
    monkeypatch.setattr(module, "private_bytes", lambda _: 1)
    assert await look(kept, state()) == "it holds memory of GPU 3"
    assert made[0].is_discarded
    await look(kept, state())
    assert len(made) == 1


async def test_one_that_was_killed_is_followed_by_another(made: list[Fake]) -> None:
    kept = keeper()
    await look(kept, state())
    made[0].get_warm()
    made[0].problem = "ended"
    assert await look(kept, state()) == "the last one ended"
    await look(kept, state())
    assert len(made) == 2
    taken: object = await kept.take(LAUNCH, SETTINGS)
    assert taken is made[1]
    kept.failed("refused: the model's files have changed since the standby read them")
    await look(kept, state())
    assert len(made) == 3


def _no_answer(_: object) -> str:
    raise TimeoutError


def _no_descriptor(_: object) -> str:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize(
    ("trouble", "why"),
    [(_no_answer, "no answer in time"), (_no_descriptor, "Too many open files")],
)
async def test_host_that_cannot_be_looked_at_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, trouble: Callable[[object], str], why: str
) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(place: object) -> str:
        loop.call_soon_threadsafe(asked.set)
        return trouble(place)

    monkeypatch.setattr(standby_wish, "fingerprint", fail)
    kept = keeper()
    kept.update(state(), SETTINGS)
    run = asyncio.ensure_future(kept.run())
    for _ in range(3):
        await asyncio.wait_for(asked.wait(), 10)
        asked.clear()
    assert not run.done()
    assert kept.status.why == f"cannot look at the host: {why}"
    run.cancel()


async def test_start_does_not_wait_for_a_disk_that_hangs(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    kept = keeper()
    await look(kept, state())
    monkeypatch.setattr(standby_wish, "fingerprint", _no_answer)
    assert await kept.take(LAUNCH, SETTINGS) is None
    assert made[0].is_discarded


async def test_start_is_plain_where_the_engines_cache_cannot_be_looked_into(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made: list[Fake]
) -> None:
    monkeypatch.setattr(standby_maker, "AGAIN_S", 300.0)
    kept = keeper()
    await look(kept, state())

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setattr(
        standby_wish, "child_environment", lambda *_, **__: {"VLLM_CACHE_ROOT": "/closed"}
    )
    assert await kept.take(LAUNCH, SETTINGS) is None
    assert made[0].is_discarded
    why = "cannot look at the host: /closed/standby-1.modules: Permission denied"
    assert caplog.messages == [f"no standby is kept for the next start: {why}"]
    assert kept.status.why == f"{why}; another is tried in 5 min"


def left_behind(made_for: str) -> Notes:
    return Notes(SimpleNamespace(number=7, made_for=made_for))


async def print_of_today() -> str:
    """Return what a standby that is started now is made for."""
    notes = Notes()
    await look(keeper(notes), state())
    return str(notes.standby.made_for)


async def test_earlier_daemons_standby_that_still_fits_is_kept_and_given_out(
    made: list[Fake],
) -> None:
    notes = left_behind(await print_of_today())
    kept = keeper(notes)
    found: object = kept.find_again(SETTINGS)
    made[1].get_warm()
    await look(kept, state())
    assert (found, len(made), made[1].is_discarded) == (made[1], 2, False)
    assert (notes.standby.number, notes.standby.warmth is not None) == (7, True)
    taken: object = await kept.take(LAUNCH, SETTINGS)
    assert (taken, notes.standby) == (made[1], None)
    await look(kept, state())
    assert notes.standby.number == 8


async def test_earlier_daemons_standby_of_another_engine_is_ended(made: list[Fake]) -> None:
    kept = keeper(left_behind("another engine"))
    kept.find_again(SETTINGS)
    await look(kept, state())
    assert [one.is_discarded for one in made] == [True, False]
    given_out = keeper(left_behind("another engine"))
    given_out.find_again(SETTINGS)
    assert await given_out.take(LAUNCH, SETTINGS) is None
    assert made[2].is_discarded


async def test_earlier_daemons_standby_waits_for_the_first_step(made: list[Fake]) -> None:
    kept = keeper(left_behind(""))
    kept.find_again(SETTINGS)
    await kept._look()  # noqa: SLF001 (its turns are what is tested)
    assert not made[0].is_discarded


async def test_earlier_daemons_standby_is_not_kept_where_none_is_wanted_by_now(
    made: list[Fake],
) -> None:
    notes = left_behind("")
    off = replace(SETTINGS, standby=StandbyMode.OFF)
    assert keeper(notes).find_again(off) is None
    assert made[0].is_discarded
    assert notes.standby is None


async def test_none_is_found_where_none_was_left(
    monkeypatch: pytest.MonkeyPatch, made: list[Fake]
) -> None:
    assert keeper().find_again(SETTINGS) is None
    monkeypatch.setattr(module, "find_standby", lambda *_: None)
    notes = left_behind("")
    assert keeper(notes).find_again(SETTINGS) is None
    assert (made, notes.standby) == ([], None)


@pytest.mark.parametrize(
    ("is_restarted", "problem", "leaves"),
    [(True, None, True), (True, "ended", False), (False, None, False)],
)
async def test_end_of_the_daemon_leaves_it_to_the_next_or_ends_it(
    made: list[Fake], problem: str | None, *, is_restarted: bool, leaves: bool
) -> None:
    kept = keeper()
    kept.leaves_standby = is_restarted
    await look(kept, state())
    run = asyncio.ensure_future(kept.run())
    await asyncio.sleep(0)
    made[0].problem = problem
    run.cancel()
    await asyncio.wait([run])
    assert (made[0].is_left, made[0].is_discarded) == (leaves, not leaves)
