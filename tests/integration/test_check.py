"""`cahootsctl check`, and the same look before a swap: what is certain to fail stops nothing."""

import json
import struct
from pathlib import Path

import pytest

from fake_hub import Fault, lfs_repo, running_hub

from .harness import Daemon, Json

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
