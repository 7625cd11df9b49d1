"""The stand-in engine does what the real one was seen to do."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fake_vllm.engine_dir import make_engine
from fake_vllm.script import (
    FAILURES,
    LOGS,
    Behaviour,
    StreamEnd,
    failure,
    kill_strays,
    starts,
    strays,
    write_script,
)

DEADLINE_S = 8
EXPECTED_EXIT = {"bad_arguments": 2, "engine_dead_other": 0, "host_oom_serving": 0}


@dataclass
class Engine:
    """A running stand-in and a client for it."""

    process: asyncio.subprocess.Process
    script: Path
    log: Path
    client: aiohttp.ClientSession

    async def wait_for(self, text: str) -> None:
        await eventually(lambda: text in self.text())

    async def ready(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.health() != 200:  # noqa: ASYNC110  # nothing tells us but asking
                await asyncio.sleep(0.01)

    async def health(self) -> int:
        try:
            async with self.client.get("/health") as response:
                return response.status
        except aiohttp.ClientError:
            return 0

    async def exit_code(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def chat(self, text: str, **fields: object) -> tuple[int, Any]:
        async with self.client.post("/v1/chat/completions", json=body(text, **fields)) as response:
            return response.status, await response.json()

    def stream(
        self, text: str, **fields: object
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.client.post("/v1/chat/completions", json=body(text, stream=True, **fields))

    def text(self) -> str:
        return self.log.read_bytes().decode()

    def pid_of(self, title: str) -> int:
        return next(pid for pid in session(self.process.pid) if title in command(pid))


Start = Callable[..., Awaitable[Engine]]


def body(text: str, **fields: object) -> dict[str, Any]:
    return {"model": "A", "messages": [{"role": "user", "content": text}]} | fields


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def output_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/fd/1").readlink())


def session(sid: int) -> list[int]:
    """Return the living processes of a session; a zombie is gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(own) == sid and state != "Z":
                found.append(int(entry.name))
    return found


async def gone(sid: int) -> None:
    await eventually(lambda: not session(sid))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    tmp_path: Path, *behaviours: Behaviour, options: tuple[str, ...] = ()
) -> AsyncIterator[Engine]:
    vllm = make_engine(tmp_path / "engine") / "bin" / "vllm"
    script = write_script(tmp_path / "script.json", *behaviours)
    uds, log = tmp_path / "s", tmp_path / "log"
    names = ("--uds", str(uds), "--served-model-name", "A", "B", "--max-model-len", "4k")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            vllm,
            "serve",
            "org/model",
            *names,
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"VLLM_FAKE_SCRIPT": str(script)},
            start_new_session=True,
        )
    connector = aiohttp.UnixConnector(str(uds))
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession("http://vllm", connector=connector, timeout=timeout) as client:
        try:
            yield Engine(process, script, log, client)
        finally:
            kill_strays(script)
            for pid in session(process.pid):
                os.kill(pid, signal.SIGKILL)
            await process.wait()


def events(payload: bytes) -> list[Any]:
    chunks = [line[6:] for line in payload.decode().split("\n\n") if line]
    assert chunks[-1] == "[DONE]"
    return [json.loads(chunk) for chunk in chunks[:-1]]


async def test_start_answers_under_each_name_and_stops_idle(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour()) as engine:
        await engine.ready()
        status, answer = await engine.chat("hello there")
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "fake: hello there")
        assert (await engine.chat("x", model="B"))[0] == 200
        status, answer = await engine.chat("x", model="org/model")
        assert (status, answer["error"]["type"]) == (404, "NotFoundError")
        async with engine.client.get("/v1/models") as response:
            models = (await response.json())["data"]
        assert [(m["id"], m["max_model_len"]) for m in models] == [("A", 4000), ("B", 4000)]
        tree = " | ".join(command(pid) for pid in session(engine.process.pid))
        assert all(name in tree for name in ("serve org/model", "VLLM::EngineCore", "VLLM::Worker"))
        began = time.monotonic()
        engine.process.terminate()
        assert await engine.exit_code() == 0
        assert time.monotonic() - began < 1
        await gone(engine.process.pid)
        assert (tmp_path / "s").exists()
        assert "Resolved architecture" in engine.text()
        assert "nanobind: leaked" in engine.text()


async def test_stream_is_paced_cut_and_cancelled_by_its_client(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(tokens_per_s=50)) as engine:
        await engine.ready()
        began = time.monotonic()
        async with engine.stream(
            "a b", max_tokens=20, ignore_eos=True, stream_options={"include_usage": True}
        ) as response:
            chunks = events(await response.read())
        assert time.monotonic() - began > 0.35
        assert chunks[-1]["usage"]["completion_tokens"] == 20
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        async with engine.stream("a", max_tokens=9999, ignore_eos=True) as response:
            await response.content.readany()
            assert 'num_requests_running{engine="0",model_name="A"} 1.0' in await metrics(engine)
            response.close()
        await asyncio.sleep(0.2)
        assert 'running{engine="0",model_name="A"} 0.0' in await metrics(engine)


async def metrics(engine: Engine) -> str:
    async with engine.client.get("/metrics") as response:
        return await response.text()


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::Worker"])
async def test_killed_engine_ends_streams_as_if_finished_and_exits_0(
    tmp_path: Path, title: str
) -> None:
    async with running(tmp_path, Behaviour(tokens_per_s=20)) as engine:
        await engine.ready()
        async with engine.stream("a", max_tokens=9999, ignore_eos=True) as response:
            await response.content.readany()
            os.kill(engine.pid_of(title), signal.SIGKILL)
            assert await engine.health() == 200
            chunks = events(await response.read())
        assert chunks[-1]["error"]["code"] == 500
        assert await engine.health() == 503
        assert await engine.exit_code() == 0
        assert "EngineDeadError" in engine.text()


async def test_sigterm_while_loading_is_swallowed(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(delays_s={"load": 0.5})) as engine:
        await engine.wait_for("25% Completed")
        engine.process.terminate()
        await engine.ready()
        assert (await engine.chat("x"))[0] == 200


async def test_sigterm_while_the_engine_imports_sticks_until_the_second(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(delays_s={"engine": 1})) as engine:
        await engine.wait_for("Enabled custom fusions")
        await asyncio.sleep(0.2)
        engine.process.terminate()
        await asyncio.sleep(1.5)
        assert await engine.health() == 0
        engine.process.terminate()
        assert await engine.exit_code() == -signal.SIGINT


async def test_sigterm_with_streams_hangs_until_the_client_closes(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(tokens_per_s=20)) as engine:
        await engine.ready()
        async with engine.stream("a", max_tokens=9999, ignore_eos=True) as response:
            await response.content.readany()
            engine.process.terminate()
            await engine.wait_for("Waiting for connections to close")
            engine.process.terminate()
            await asyncio.sleep(0.5)
            assert engine.process.returncode is None
            assert not [p for p in session(engine.process.pid) if "VLLM" in command(p)]
            response.close()
        assert await engine.exit_code() == 0


@pytest.mark.parametrize(("how", "key"), [("abort", "choices"), ("error_event", "error")])
async def test_sigterm_with_streams_can_end_them(tmp_path: Path, how: StreamEnd, key: str) -> None:
    async with running(tmp_path, Behaviour(tokens_per_s=20, term_with_streams=how)) as engine:
        await engine.ready()
        async with engine.stream("a", max_tokens=9999, ignore_eos=True) as response:
            await response.content.readany()
            engine.process.terminate()
            assert key in events(await response.read())[-1]
        assert await engine.exit_code() == 0


async def test_killed_main_leaves_orphans_that_sigterm_ends(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour()) as engine:
        await engine.ready()
        engine.process.kill()
        assert await engine.exit_code() == -signal.SIGKILL
        await asyncio.sleep(0.3)
        core = engine.pid_of("VLLM::EngineCore")
        assert engine.pid_of("VLLM::Worker")
        os.kill(core, signal.SIGTERM)
        await gone(engine.process.pid)


async def test_bad_option_exits_2_and_a_stale_socket_1(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(), options=("--bad-option",)) as engine:
        assert await engine.exit_code() == 2
        assert "unrecognized arguments: --bad-option" in engine.text()
    (tmp_path / "s").touch()
    async with running(tmp_path, Behaviour()) as engine:
        assert await engine.exit_code() == 1
        assert "[Errno 98] Address already in use" in engine.text()


@pytest.mark.parametrize("name", FAILURES)
async def test_failure_log_is_played_byte_for_byte(tmp_path: Path, name: str) -> None:
    async with running(
        tmp_path, failure(name), options=("--disable-uvicorn-access-log",)
    ) as engine:
        assert await engine.exit_code() == EXPECTED_EXIT.get(name, 1)
        await gone(engine.process.pid)
        assert engine.log.read_bytes() == (LOGS / f"{name}.log").read_bytes()


async def test_strays_survive_killpg(tmp_path: Path) -> None:
    behaviour = Behaviour(setsid_grandchildren=2, hold_pipe=True)
    async with running(tmp_path, behaviour) as engine:
        await engine.ready()
        os.killpg(engine.process.pid, signal.SIGKILL)
        await engine.exit_code()
        assert len(strays(engine.script)) == 3
        assert all("VLLM::Stray" in command(pid) for pid in strays(engine.script))
        outputs = [output_of(pid) for pid in strays(engine.script)]
        assert sorted(outputs) == ["/dev/null", "/dev/null", str(engine.log)]


async def test_stopped_worker_shows_200_and_never_a_byte(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour()) as engine:
        await engine.ready()
        os.kill(engine.pid_of("VLLM::Worker"), signal.SIGSTOP)
        await assert_silent(engine)


async def test_engine_freezes_after_a_request(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(frozen_after_requests=1)) as engine:
        await engine.ready()
        assert (await engine.chat("x"))[0] == 200
        await assert_silent(engine)


async def assert_silent(engine: Engine) -> None:
    async with engine.stream("x") as response:
        assert response.status == 200
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await response.content.readany()
        assert await engine.health() == 200
        assert 'running{engine="0",model_name="A"} 0.0' in await metrics(engine)


async def test_poison_kills_and_the_next_start_has_the_next_behaviour(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(crash_on_prompt="poison")) as engine:
        await engine.ready()
        assert (await engine.chat("poison"))[0] == 500
        assert await engine.exit_code() == 0
        assert starts(engine.script)[0].argv[:2] == ["serve", "org/model"]


async def test_hang_logs_nothing_more_and_ignores_nothing_but_kill(tmp_path: Path) -> None:
    behaviour = Behaviour(hang_at="kv_cache", ignore_sigterm=True)
    async with running(tmp_path, behaviour) as engine:
        await engine.wait_for("Loading weights took")
        engine.process.terminate()
        before = engine.text()
        await asyncio.sleep(0.5)
        assert engine.text() == before
        assert engine.process.returncode is None


async def test_main_killed_in_start_up_leaves_its_children(tmp_path: Path) -> None:
    async with running(tmp_path, Behaviour(die_at="warm_up", exit_code=-9)) as engine:
        assert await engine.exit_code() == -signal.SIGKILL
        assert engine.pid_of("VLLM::EngineCore")


async def test_drain_finishes_streams_and_refuses_new_requests(tmp_path: Path) -> None:
    options = ("--shutdown-timeout", "5")
    async with running(tmp_path, Behaviour(tokens_per_s=20), options=options) as engine:
        await engine.ready()
        async with engine.stream("a", max_tokens=10, ignore_eos=True) as response:
            await response.content.readany()
            engine.process.terminate()
            await asyncio.sleep(0.1)
            assert (await engine.health(), (await engine.chat("x"))[0]) == (200, 500)
            assert events(await response.read())[-1]["choices"][0]["finish_reason"] == "length"
        assert await engine.exit_code() == 0


async def test_engine_dies_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    behaviour = Behaviour(tokens_per_s=20, exit0_after_tokens=3, engine_death_streams="abort")
    async with running(tmp_path, behaviour) as engine:
        await engine.ready()
        async with engine.stream("a", max_tokens=99, ignore_eos=True) as response:
            last = events(await response.read())[-1]
        assert last["choices"][0]["finish_reason"] == "abort"
        assert await engine.exit_code() == 0
