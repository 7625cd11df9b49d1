"""`cahootsctl check`, and the same look before a swap: what is certain to fail stops nothing."""

import json
import struct
from pathlib import Path

import pytest

from fake_hub import Fault, Repo, lfs_repo, running_hub

from .harness import Daemon, Json
from .scripted_gpus import Gpu, ScriptedGpus

CONFIG: Json = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256, "torch_dtype": "bfloat16",
    "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


def write_model(daemon: Daemon, config: Json, options: str = "", size: int = 1024) -> Path:
    """Make `org/b` another model; return its directory."""
    directory = daemon.root / "models" / "org-b"
    (directory / "config.json").write_text(json.dumps(config))
    header = {"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)  # sparse: as large as it has to be, for nothing
    profile = f'name = "org/b"\nsource = "{directory}"\n{options}'
    (daemon.config / "models.d" / "org-b.toml").write_text(profile)
    return directory


def know_other_architectures(daemon: Daemon) -> None:
    """Give the engine a registry of models that `org/b` is not in."""
    place = next(daemon.engine.glob("lib/python3*/site-packages"))
    registry = place / "vllm" / "model_executor" / "models" / "registry.py"
    registry.parent.mkdir(parents=True)
    registry.write_text(f"_TEXT_MODELS = { ({f'M{n}ForCausalLM': 'm' for n in range(60)}) }\n")


def checks(daemon: Daemon, model: str = "org/b", *options: str) -> tuple[int, dict[str, Json]]:
    done = daemon.ctl("check", model, *options, "--json")
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


_REFUSED = [
    ("[options]\nquantization = 'awq'\n", 1024, "awq is asked for", "remove the option"),
    ("[options]\nmax-model-len = 4096\n", 1024, "more than the model's own 2,048", "2048 or less"),
    ("", 1 << 42, "weights", "smaller"),
]


@pytest.mark.parametrize(
    ("options", "size", "sentence", "remedy"), _REFUSED, ids=["quantization", "context", "memory"]
)
def test_swap_that_is_certain_to_fail_ends_while_the_old_model_serves(
    daemon: Daemon, options: str, size: int, sentence: str, remedy: str
) -> None:
    write_model(daemon, CONFIG, options, size)
    daemon.start_ready()
    operation = daemon.swap("org/b")
    assert operation["state"] == "failed"
    assert sentence in operation["problem"]["detail"]
    assert remedy in operation["problem"]["remedy"]
    status = daemon.status()
    assert (status["worker"]["generation"], status["model"]["serving"]) == (1, "org/a")
    assert daemon.says("still") == "fake: still"
    code, found = checks(daemon)
    assert code == 1
    assert [check["sentence"] for check in found.values() if check["level"] == "fail"]


def test_model_that_fits_is_checked_and_served(daemon: Daemon) -> None:
    write_model(daemon, CONFIG)
    daemon.start_ready()
    code, found = checks(daemon)
    assert code == 0
    assert {name: check["level"] for name, check in found.items()} == {
        "files": "ok", "engine": "ok", "quantization": "ok", "context": "ok", "memory": "ok",
    }  # fmt: skip
    assert "fits" in found["memory"]["sentence"]
    shown = daemon.ctl("check", "org/b").stdout
    assert "can be served" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert daemon.swap("org/b")["state"] == "done"


def test_options_try_another_size(daemon: Daemon) -> None:
    write_model(daemon, CONFIG)
    daemon.start_ready()
    code, found = checks(daemon, "org/b", "--max-model-len", "4096")
    assert (code, found["context"]["level"]) == (1, "fail")
    assert checks(daemon)[0] == 0  # nothing was changed


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"num_hidden_layers": 1e400}', '{"hidden_size": -1}', "[" * 100_000],
    ids=["empty", "a list", "cut", "endless", "negative", "deep"],
)
def test_hostile_configuration_is_a_sentence(daemon: Daemon, text: str) -> None:
    directory = write_model(daemon, CONFIG)
    (directory / "config.json").write_text(text)
    daemon.start_ready()
    done = daemon.ctl("check", "org/b")
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout
    assert daemon.status()["state"] == "ready"


@pytest.mark.parametrize(
    ("fault", "level", "said"),
    [
        (None, "ok", "MiB"),
        (Fault("status", times=-1, status=401), "fail", "token"),
        (
            Fault("status", times=-1, status=403, headers={"X-Error-Code": "GatedRepo"}),
            "fail",
            "https://huggingface.co/org/tiny",
        ),
        (Fault("status", times=-1, status=503), "fail", "the hub answers 503"),
    ],
    ids=["there", "token", "gated", "down"],
)
def test_model_that_would_be_downloaded_is_asked_for(
    daemon: Daemon, fault: Fault | None, level: str, said: str
) -> None:
    with running_hub() as hub:
        hub.repos["org/tiny"] = lfs_repo()
        daemon.write_env(HF_ENDPOINT=hub.endpoint, HUGGINGFACE_API_KEY="hf_" + "secretsecret")
        daemon.start_ready()
        if fault is not None:
            hub.refusals["org/tiny"] = [fault]
        code, found = checks(daemon, "org/tiny")
    assert code == int(level == "fail")
    words = " ".join(f"{check['sentence']} {check.get('remedy')}" for check in found.values())
    assert said in words
    assert "secretsecret" not in words


def test_more_gpus_than_there_are_stop_nothing(gpu_daemon: Daemon) -> None:
    write_model(gpu_daemon, CONFIG, "[options]\ntensor-parallel-size = 4\n")
    gpu_daemon.start_ready()
    code, found = checks(gpu_daemon)
    assert (code, found["gpus"]["level"]) == (1, "fail")
    assert "4 GPUs are asked for" in found["gpus"]["sentence"]
    operation = gpu_daemon.swap("org/b")
    assert operation["state"] == "failed"
    assert operation["problem"]["cause"] == "cuda_driver"
    assert gpu_daemon.status()["model"]["serving"] == "org/a"
    assert gpu_daemon.says("still") == "fake: still"


def test_swap_says_what_the_look_before_it_has_seen(daemon: Daemon) -> None:
    write_model(daemon, CONFIG | {"architectures": ["NewForCausalLM"]})
    know_other_architectures(daemon)
    daemon.start_ready()
    done = daemon.ctl("swap-model", "org/b")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "engine WARN: NewForCausalLM is not among this engine's own models" in said
    assert "KV for 2,048 tokens" in said
    assert "fits; 2,048 tokens at most" in said
    operation = daemon.api("GET", "/v1/operations/1")
    assert [check["name"] for check in operation["looked"]] == ["engine", "memory"]
    # Nothing is left of it in the next one.
    assert daemon.change("stop")["looked"] == []


def test_reload_that_is_certain_to_fail_leaves_everything_as_it_is(daemon: Daemon) -> None:
    write_model(daemon, CONFIG, "[options]\nquantization = 'awq'\n")
    daemon.start_ready()
    before = daemon.status()
    daemon.write_env(LOCAL_LLM_MODEL="org/b")
    done = daemon.ctl("reload")
    assert done.returncode == 1
    assert "awq is asked for" in done.stderr
    assert "serving org/a" in done.stderr
    after = daemon.status()
    assert after["state"] == "ready"
    assert after["worker"]["pid"] == before["worker"]["pid"]
    assert daemon.says("still") == "fake: still"


def test_bfloat16_on_a_gpu_without_it_stops_nothing(gpu_daemon: Daemon, gpus: ScriptedGpus) -> None:
    gpus.show(Gpu(name="Tesla T4", capability=(7, 5)))
    write_model(gpu_daemon, CONFIG, "[options]\ndtype = 'bfloat16'\n")
    gpu_daemon.start_ready()
    code, found = checks(gpu_daemon)
    assert (code, found["dtype"]["level"]) == (1, "fail")
    assert "GPU 0 (Tesla T4) has 7.5" in found["dtype"]["sentence"]
    operation = gpu_daemon.swap("org/b")
    assert (operation["state"], operation["problem"]["cause"]) == ("failed", "bad_arguments")
    assert "set dtype to half" in operation["problem"]["remedy"]
    assert gpu_daemon.says("still") == "fake: still"
    code, found = checks(gpu_daemon, "org/b", "--dtype", "half")
    assert (code, "dtype" in found) == (0, False)
    code, found = checks(gpu_daemon, "org/b", "--dtype", "auto")
    assert (code, found["dtype"]["level"]) == (0, "ok")


def test_dtype_that_is_taken_instead_counts_in_the_estimate(
    gpu_daemon: Daemon, gpus: ScriptedGpus
) -> None:
    write_model(gpu_daemon, CONFIG | {"model_type": "gemma3_text"}, size=1 << 30)
    gpu_daemon.start_ready()
    report = gpu_daemon.api("POST", "/v1/check", {"model": "org/b"})
    gpus.show(Gpu(capability=(7, 5)))
    old = gpu_daemon.api("POST", "/v1/check", {"model": "org/b"})
    assert old["level"] == "warn"
    assert old["weights_bytes"] == 2 * report["weights_bytes"]


def test_hostile_configuration_on_the_hub_is_a_sentence(daemon: Daemon) -> None:
    with running_hub() as hub:
        hub.repos["org/odd"] = lfs_repo()
        hub.repos["org/odd"].files["config.json"] = b"[" * 100_000
        daemon.write_env(HF_ENDPOINT=hub.endpoint)
        daemon.start_ready()
        code, found = checks(daemon, "org/odd")
    assert (code, found["files"]["level"]) == (0, "ok"), found
    assert found["memory"]["level"] == "warn"
    assert "does not tell its size" in found["memory"]["sentence"]


def test_repo_with_only_gguf_files_is_refused_by_check_pull_and_swap(daemon: Daemon) -> None:
    with running_hub() as hub:
        files = {"config.json": b"{}", "model-q4.gguf": b"GGUF"}
        hub.repos["org/gguf"] = Repo(files, frozenset({"model-q4.gguf"}))
        daemon.write_env(HF_ENDPOINT=hub.endpoint)
        daemon.start_ready()
        code, found = checks(daemon, "org/gguf")
        assert (code, found["files"]["level"]) == (1, "fail")
        assert "no weights that can be downloaded" in found["files"]["sentence"]
        for verb in ("pull", "swap-model"):
            done = daemon.ctl(verb, "org/gguf")
            assert done.returncode == 1
            assert "no weights that can be downloaded" in done.stderr
            assert "a GGUF file is served from a directory" in " ".join(done.stderr.split())
        assert not [name for name, _, _ in hub.ranges if "gguf" in name]
    assert daemon.status()["model"]["serving"] == "org/a"
    assert daemon.api("GET", "/v1/models")["models"][0]["repo"] == "org/a"


def test_repo_that_is_not_there_is_told_with_near_names(daemon: Daemon) -> None:
    with running_hub() as hub:
        daemon.write_env(HF_ENDPOINT=hub.endpoint)
        daemon.start_ready()
        code, found = checks(daemon, "org/aa")
    assert (code, found["files"]["level"]) == (1, "fail")
    assert "no public repo org/aa" in found["files"]["sentence"]
    assert "did you mean org/a" in found["files"]["remedy"]


@pytest.mark.parametrize("name", ["a\0b", "x\n/y", "-x/y", " ", "x" * 600, "org/\ud800"])
def test_name_that_cannot_be_one_is_refused(daemon: Daemon, name: str) -> None:
    daemon.start_ready()
    for path in ("/v1/check", "/v1/models/pull"):
        answer = daemon.request("POST", path, json.dumps({"model": name}))
        assert answer.status == 400, (path, answer.body)
    for revision in ("a\0b", "../../x", "", "x//y", "/x", "-x", "x" * 600, "\ud800"):
        body = json.dumps({"model": "org/x", "revision": revision})
        assert daemon.request("POST", "/v1/models/pull", body).status == 400, revision
    assert daemon.says("still") == "fake: still"
