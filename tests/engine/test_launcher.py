"""A standby becomes the same `vllm serve` as the plain command, on the real engine."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cahoots_vllm.host.process_info import read_environ
from engine.harness import gone, is_alive, tree, wait_for
from engine.standby import MARK, Bay, Served, bay, comparable, seen

pytestmark = pytest.mark.timeout(600)
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROMPTS = ("The capital of France is", "def fibonacci(n):", "Once upon a time")


@pytest.fixture(scope="module")
def place(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    with bay(engine, tmp_path_factory.mktemp("bay")) as one:
        yield one


@dataclass
class Facts:
    """What was seen of one start, from its first line to its end; `output` is the start's."""

    answers: list[str]
    titles: list[str]
    comm: str
    threads: int
    huge_bytes: int
    affinity: dict[str, list[set[int]]]
    output: list[str]
    exit_status: int
    is_all_gone: bool


def facts_of(one: Served) -> Facts:
    one.first_token_s()
    answers = [one.answer(prompt, 48) for prompt in PROMPTS]
    titles, worker = one.titles(), one.worker()
    one.settle()
    affinity: dict[str, list[set[int]]] = {}
    for task in Path(f"/proc/{worker}/task").iterdir():
        name = (task / "comm").read_text().strip()
        affinity.setdefault(name, []).append(os.sched_getaffinity(int(task.name)))
    huge = huge_bytes(worker)
    comm = Path(f"/proc/{one.process.pid}/comm").read_text()
    pids = {one.process.pid, *tree(one.process.pid)}
    status = one.end()
    is_all_gone = seen(lambda: gone(pids))
    threads = sum(len(of_name) for of_name in affinity.values())
    # The end of a clean shutdown is a race between the engine's processes.
    begin = one.said().partition("Application startup complete")[0]
    return Facts(
        answers, titles, comm, threads, huge, affinity, comparable(begin), status, is_all_gone
    )


def huge_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHuge"))


@pytest.fixture(scope="module")
def plain(place: Bay, demo_model: Path) -> Facts:
    return facts_of(place.plain(demo_model))


@pytest.fixture(scope="module")
def launched(place: Bay, demo_model: Path) -> Facts:
    standby = place.standby(demo_model)
    warm = standby.hear()
    assert (warm["state"], warm["fork"], warm["rehearsed"]) == ("warm", True, True), warm
    return facts_of(place.launch(standby, demo_model, **{MARK: "bay#17"}))


def test_answers_are_the_same_tokens(plain: Facts, launched: Facts) -> None:
    assert launched.answers == plain.answers


def test_processes_wear_the_same_titles(plain: Facts, launched: Facts) -> None:
    assert launched.titles == plain.titles
    assert launched.comm == plain.comm


def test_worker_is_bound_and_threaded_as_a_spawned_one(plain: Facts, launched: Facts) -> None:
    assert launched.affinity == plain.affinity
    assert launched.threads == plain.threads


@pytest.mark.skipif(
    not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="this host gives huge pages to nobody, or to everybody at once",
)
def test_forked_worker_has_its_weights_in_huge_pages(
    plain: Facts, launched: Facts, demo_model: Path
) -> None:
    weights = sum(file.stat().st_size for file in demo_model.glob("*.safetensors"))
    assert launched.huge_bytes > weights
    assert plain.huge_bytes < weights


def test_start_says_the_same(plain: Facts, launched: Facts) -> None:
    assert launched.output == plain.output


def test_sigterm_ends_all_of_it_with_the_same_status(plain: Facts, launched: Facts) -> None:
    assert (launched.exit_status, launched.is_all_gone) == (plain.exit_status, True)


def test_refused_arguments_end_as_ever(place: Bay, tiny_model: Path) -> None:
    more = ("--max-num-seq", "4", "--no-such-option")
    plain = place.plain(tiny_model, *more)
    expected = plain.process.wait(120), plain.said().splitlines()[-4:]
    standby = place.standby(tiny_model)
    assert standby.hear()["state"] == "warm"
    launched = place.launch(standby, tiny_model, *more)
    assert (launched.process.wait(60), launched.said().splitlines()[-4:]) == expected
    assert expected[0] == 2
    assert expected[1][-1] == "vllm: error: unrecognized arguments: --no-such-option"


def test_start_that_fails_ends_as_ever(place: Bay, tiny_model: Path) -> None:
    standby = place.standby(None)
    assert standby.hear()["why_not_rehearsed"] == "no command line was given"
    launched = place.launch(standby, tiny_model, "--kv-cache-memory-bytes", "1K")
    assert launched.process.wait(120) == 1
    lines = [line for line in launched.said().splitlines() if line.strip()]
    assert any(line.startswith("RuntimeError: Engine core initialization failed") for line in lines)
    # The engine's own script is the first frame: nothing of the launcher is in it.
    assert "launcher.py" not in launched.said().replace("launchers", "")
    assert f'File "{place.engine}/bin/vllm", line ' in launched.said()


def test_killed_api_server_leaves_nobody_at_its_socket(place: Bay, tiny_model: Path) -> None:
    standby = place.standby(tiny_model)
    assert standby.hear()["state"] == "warm"
    launched = place.launch(standby, tiny_model, **{MARK: "bay#23"})
    launched.first_token_s()
    below = set(tree(launched.process.pid))
    (engine,) = (pid for pid, title in tree(launched.process.pid).items() if "EngineCore" in title)
    # A daemon that comes back knows every one of them by this.
    assert {read_environ(pid)[MARK] for pid in {launched.process.pid, engine}} == {"bay#23"}
    assert launched.end(signal.SIGKILL) == -signal.SIGKILL
    assert is_alive(engine)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(launched.uds))
    os.kill(engine, signal.SIGTERM)
    assert seen(lambda: gone(below))


def test_where_fork_is_not_wanted_processes_are_spawned_and_serve(
    place: Bay, tiny_model: Path
) -> None:
    spawn = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    standby = place.standby(tiny_model, **spawn)
    warm = standby.hear()
    assert (warm["fork"], warm["why_not_fork"]) == (
        False,
        "VLLM_WORKER_MULTIPROC_METHOD says spawn",
    )
    launched = place.launch(standby, tiny_model, **spawn)
    launched.first_token_s()
    assert "processes are spawned: VLLM_WORKER_MULTIPROC_METHOD says spawn" in launched.said()
    assert launched.end() == 0


def test_warm_standby_waits_for_nobody(
    place: Bay, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(place, "learned", ".")  # no file can be written there: it is but a hint
        standby = place.standby(None)
    assert standby.hear()["state"] == "warm"
    standby.process.terminate()
    assert standby.process.wait(10) == -signal.SIGTERM
    standby = place.standby(tiny_model)
    assert standby.hear()["state"] == "warm"
    standby.socket.shutdown(socket.SHUT_WR)
    assert standby.process.wait(10) == 0
    assert standby.hear() == {}


def test_changed_environment_or_model_is_refused_by_name(place: Bay, tiny_model: Path) -> None:
    standby = place.standby(None)
    assert standby.hear()["state"] == "warm"
    secret = "hf_" + "x" * 20
    env = {**place.env(HF_TOKEN=secret), "VLLM_CACHE_ROOT": "/elsewhere"}
    argv = place.argv(tiny_model, place.home / "never.sock")
    standby.send({"argv": argv, "env": env, "cwd": "/"})
    refused = standby.hear()
    assert refused == {
        "state": "refused",
        "why": "the environment differs from the standby's in HF_TOKEN, VLLM_CACHE_ROOT",
    }
    assert standby.process.wait(10) == 0

    standby = place.standby(tiny_model)
    assert standby.hear()["rehearsed"]
    (tiny_model / "tokenizer_config.json").touch()
    standby.send({"argv": argv, "env": place.env(), "cwd": "/"})
    assert standby.hear()["why"].startswith("the model's files have changed")
    assert standby.process.wait(10) == 0


def test_compiled_kernels_have_the_key_of_a_plain_start(place: Bay, tiny_model: Path) -> None:
    keys = place.home / "cache" / "torch_compile_cache" / "torch_aot_compile"

    def key_of(one: Served) -> set[str]:
        """Return what vLLM looks for in its cache; the kernels take minutes, and are not made."""
        assert wait_for(lambda: any(keys.glob("*")), 300)
        one.kill()
        found = {path.name for path in keys.glob("*")}
        shutil.rmtree(keys)
        return found

    plain = key_of(place.plain(tiny_model, "--no-enforce-eager"))
    standby = place.standby(tiny_model)
    assert standby.hear()["state"] == "warm"
    assert key_of(place.launch(standby, tiny_model, "--no-enforce-eager")) == plain
