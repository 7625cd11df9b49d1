"""What each edit of a settings file means: at least sixty, good, bad and odd.

Every edit is made to files from which org/a is served; the outcome is what a reload would do.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cahoots_vllm.control.settings_files import CommandLine, load_settings
from cahoots_vllm.core.config_view import (
    Effect,
    config_changes,
    refuse_lost_provider,
    worker_effect,
)
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.paths import Paths
from fake_vllm.engine_dir import make_engine

TOKEN = "hf_" + "veryPrivate" * 3
HASH = "sha256:" + "0a" * 32
ENV = f"""\
# Cahoots
LLM_PROVIDER=local
LOCAL_LLM_URL=http://localhost:8001/v1
LOCAL_LLM_MODEL=org/a
HUGGINGFACE_API_KEY={TOKEN}
OPENAI_API_KEY=sk-other
"""
CONFIG = "[gateway]\nhold_max = 500\n[options]\nmax-model-len = 2048\n"
PROFILE = 'name = "org/a"\nsource = "/models/a"\n[options]\nenforce-eager = true\n'
NOTHING, SWAP, STOP = Effect.NOTHING, Effect.SWAP, Effect.STOP


@dataclass(frozen=True)
class Edit:
    """New content of one file, None for no file; `says` is in the error, None: it is good."""

    file: str
    content: bytes | None
    worker: Effect = NOTHING
    says: str | None = None
    changed: tuple[str, ...] = ()
    warns: str = ""


def env(old: str, new: str, **outcome: object) -> Edit:
    assert old in ENV, old
    return replace(Edit(".env", ENV.replace(old, new).encode()), **outcome)  # type: ignore[arg-type] # checked where it is used


def raw(content: bytes | None, **outcome: object) -> Edit:
    return replace(Edit(".env", content), **outcome)  # type: ignore[arg-type] # checked where it is used


def config(content: str, **outcome: object) -> Edit:
    return replace(Edit("cahoots-vllm.toml", content.encode()), **outcome)  # type: ignore[arg-type] # checked where it is used


def profile(content: str, **outcome: object) -> Edit:
    return replace(Edit("models.d/a.toml", content.encode()), **outcome)  # type: ignore[arg-type] # checked where it is used


MODEL = ("LOCAL_LLM_MODEL", "options.enforce-eager")
EDITS: dict[str, Edit] = {
    # --- .env, nothing to do ---------------------------------------------------------------
    "untouched": raw(ENV.encode()),
    "comment added": env("# Cahoots", "# Cahoots\n# more"),
    "blank lines": env("LLM_PROVIDER", "\n\nLLM_PROVIDER"),
    "export prefix": env("LLM_PROVIDER", "export LLM_PROVIDER"),
    "double quotes": env("org/a", '"org/a"'),
    "single quotes": env("org/a", "'org/a'"),
    "spaces around the equals sign": env("LLM_PROVIDER=local", "LLM_PROVIDER = local"),
    "trailing blanks": env("org/a", "org/a   "),
    "trailing comment": env("org/a", "org/a # the model"),
    "byte order mark": raw(b"\xef\xbb\xbf" + ENV.encode()),
    "windows line ends": raw(ENV.replace("\n", "\r\n").encode()),
    "no line end at the end": raw(ENV.rstrip().encode()),
    "provider in capitals": env("=local", "=LOCAL"),
    "key of Cahoots' own": env("sk-other", "sk-changed"),
    "key without a value": raw(ENV.encode() + b"LANGFUSE_KEY\n"),
    "many keys of Cahoots": raw(ENV.encode() + b"".join(b"K%d=v\n" % n for n in range(60_000))),
    "path of the URL without a slash": env("/v1", "/v1/", changed=("LOCAL_LLM_URL",)),
    "same key twice, same value": env(
        "org/a", "org/b\nLOCAL_LLM_MODEL=org/a", warns="line 5 counts, not 4"
    ),
    "typo of a key": raw(
        ENV.encode() + b"LOCAL_LLM_MODLE=org/b\n", warns="did you mean LOCAL_LLM_MODEL?"
    ),
    # --- .env, something to do -------------------------------------------------------------
    "another model": env("org/a", "org/b", worker=SWAP, changed=MODEL),
    "model in quotes with blanks": env("=org/a", '=" org/b "', worker=SWAP, changed=MODEL),
    "model by reference": env("=org/a", "=${NAME}x\n", worker=SWAP, changed=MODEL),
    "key twice, the last counts": env(
        "org/a", "org/a\nLOCAL_LLM_MODEL=org/b", worker=SWAP, changed=MODEL, warns="twice"
    ),
    "model removed": env("LOCAL_LLM_MODEL=org/a\n", "", worker=SWAP, changed=MODEL),
    "model empty": env("=org/a", "=", worker=SWAP, changed=MODEL),
    "model commented out": env("LOCAL_LLM_MODEL", "#LOCAL_LLM_MODEL", worker=SWAP, changed=MODEL),
    "token rotated": env(TOKEN, "hf_new", changed=("HUGGINGFACE_API_KEY",)),
    "token removed": env(f"={TOKEN}", "=", changed=("HUGGINGFACE_API_KEY",)),
    "token in quotes": env(TOKEN, f'"{TOKEN}"'),
    "port": env(":8001", ":8002", changed=("LOCAL_LLM_URL",)),
    "base path": env("/v1", "/llm", changed=("LOCAL_LLM_URL",)),
    "host of docker": env(
        "localhost", "host.docker.internal", changed=("LOCAL_LLM_URL",), warns="gateway.listen"
    ),
    "provider elsewhere": env("=local", "=cerebras", worker=STOP, changed=("LLM_PROVIDER",)),
    "provider ollama": env("=local", "=ollama", worker=STOP, changed=("LLM_PROVIDER",)),
    "provider mock": env("=local", "=mock", worker=STOP, changed=("LLM_PROVIDER",)),
    "provider removed": env("LLM_PROVIDER=local\n", "", says="is not there any more"),
    "provider empty": env("=local", "=", says="is not there any more"),
    "engine variable": raw(
        ENV.encode() + b"VLLM_LOGGING_LEVEL=DEBUG\n",
        worker=SWAP, changed=("VLLM_LOGGING_LEVEL",),
    ),
    "GPU chosen": raw(
        ENV.encode() + b"CUDA_VISIBLE_DEVICES=1\n", worker=SWAP, changed=("CUDA_VISIBLE_DEVICES",)
    ),
    "secret of the engine": raw(ENV.encode() + b"VLLM_API_KEY=s3cret\n", changed=("VLLM_API_KEY",)),
    # --- .env, refused ---------------------------------------------------------------------
    "empty file": raw(b"", says="LLM_PROVIDER is not there any more"),
    "no file": raw(None, says="no such file"),
    "no assignment": env("# Cahoots", "this is no line", says="line 1: not KEY=VALUE"),
    "unclosed quote": env("=org/a", '="org/a', says="not KEY=VALUE"),
    "slip in the provider": env("=local", "=lcoal", says="line 2: 'lcoal' is no provider"),
    "https": env("http://", "https://", says="line 3: https://localhost:8001/v1: it must be"),
    "no scheme": env("http://", "", says="LOCAL_LLM_URL"),
    "port in words": env(":8001", ":many", says="line 3"),
    "port too large": env(":8001", ":99999", says="line 3"),
    "port 0": env(":8001", ":0", says="line 3"),
    "model that is an option": env("=org/a", "=--help", says="line 4: too long, or with odd"),
    "model with a control character": env("=org/a", "=a\x07b", says="line 4"),
    "model too long": env("=org/a", "=" + "m" * 600, says="line 4"),
    "token with a blank": env(TOKEN, '"hf_a b"', says="line 5: a token has no blanks"),
    "token over two lines": env(TOKEN, '"hf_a\nb"', says="a token has no blanks"),
    "not UTF-8": env("# Cahoots", "# Caf\xe9", says=None),
    "latin-1": raw(ENV.replace("Cahoots", "Café").encode("latin-1"), says="line 1: not UTF-8"),
    "UTF-16": raw(ENV.encode("utf-16"), says="not UTF-8"),
    "binary junk": raw(bytes(range(256)), says="not UTF-8"),
    "a zero byte": raw(ENV.encode() + b"X=\0\n", says="line 7: a zero byte"),
    "8 MB": raw(b"#" * 8_000_000, says="larger than 4 MiB"),
    # --- cahoots-vllm.toml -----------------------------------------------------------------
    "config untouched": config(CONFIG),
    "config comment": config(f"# x\n{CONFIG}"),
    "config gone": Edit(
        "cahoots-vllm.toml", None, SWAP, changed=("gateway.hold_max", "options.max-model-len")
    ),
    "hold": config(CONFIG.replace("500", "7"), changed=("gateway.hold_max",)),
    "listen": config(
        CONFIG.replace("[gateway]", '[gateway]\nlisten = ["127.0.0.1"]'),
        changed=("gateway.listen",),
    ),
    "grace": config(f"{CONFIG}[worker]\nstop_grace_s = 3\n", changed=("worker.stop_grace_s",)),
    "adapt": config(f"{CONFIG}[memory]\nadapt = false\n", changed=("memory.adapt",)),
    "option": config(
        CONFIG.replace("2048", "1024"), worker=SWAP, changed=("options.max-model-len",)
    ),
    "option the profile overrides": config(f"{CONFIG}enforce-eager = false\n"),
    "unknown table": config(f"{CONFIG}[gatway]\n", says="gatway: no such key"),
    "unknown key": config(CONFIG.replace("hold_max", "hold_mx"), says="did you mean hold_max?"),
    "wrong type": config(CONFIG.replace("500", '"many"'), says="line 2: gateway.hold_max"),
    "out of range": config(CONFIG.replace("500", "-1"), says="line 2: gateway.hold_max"),
    "broken toml": config("[gateway\n", says="line 1"),
    "listen beyond loopback": config(
        '[gateway]\nlisten = ["0.0.0.0"]\n', says="line 2: gateway.listen: 0.0.0.0 is beyond"
    ),
    "listen with a port": config(
        '[gateway]\nlisten = ["127.0.0.1:8001"]\n',
        says="line 2: gateway.listen: '127.0.0.1:8001' is neither",
    ),
    "listen as a text": config(
        '[gateway]\nlisten = "0.0.0.0"\n', says="line 2: gateway.listen: it must be a list"
    ),
    "listen nowhere": config(
        "[gateway]\nlisten = []\n", says="line 2: gateway.listen: the list must not be empty"
    ),
    "table that is none": config("gateway = 5\n", says="line 1: gateway: it must be a table"),
    "listen on a socket too": config(
        CONFIG.replace("[gateway]", '[gateway]\nlisten = ["127.0.0.1", "::1", "/run/x.sock"]'),
        changed=("gateway.listen",),
    ),
    "listen beyond loopback with a key": config(
        CONFIG.replace("[gateway]", f'[gateway]\nlisten = ["0.0.0.0"]\napi_keys = ["{HASH}"]'),
        changed=("gateway.listen", "gateway.api_keys"),
    ),
    "plain key in the configuration": config(
        f'[gateway]\napi_keys = ["{TOKEN}"]\n', says="line 2: gateway.api_keys: one"
    ),
    "key file that is not there": config(
        '[gateway]\napi_keys_file = "keys"\n', says="keys: no such file"
    ),
    "web page": config(
        CONFIG.replace("[gateway]", '[gateway]\norigins = ["https://ai.example.org"]'),
        changed=("gateway.origins",),
    ),
    "web page without a scheme": config(
        '[gateway]\norigins = ["ai.example.org"]\n',
        says="line 2: gateway.origins: 'ai.example.org' is no origin",
    ),
    "reserved option": config('[options]\nuds = "/x"\n', says="options.uds: the daemon sets it"),
    "floor above one": config("[memory]\nfloor = 2\n", says="memory.floor"),
    # --- profiles --------------------------------------------------------------------------
    "profile untouched": profile(PROFILE),
    "profile comment": profile(f"{PROFILE}# why\n"),
    "profile option": profile(f"{PROFILE}seed = 1\n", worker=SWAP, changed=("options.seed",)),
    "profile list": profile(
        f'{PROFILE}middleware = ["a", "b"]\n', worker=SWAP, changed=("options.middleware",)
    ),
    "profile source": profile(PROFILE.replace("/models/a", "/models/z"), worker=SWAP),
    "profile gone": Edit("models.d/a.toml", None, SWAP, changed=("options.enforce-eager",)),
    "profile without a name": profile("[options]\n", says="name: Field required"),
    "profile with a slip": profile(PROFILE.replace("source", "sorce"), says="did you mean source?"),
    "profile with a bad option name": profile(
        PROFILE.replace("enforce-eager", '"--enforce eager"'), says="not an option name"
    ),
}  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "models.d").mkdir()
    for name, text in ((".env", ENV), ("cahoots-vllm.toml", CONFIG), ("models.d/a.toml", PROFILE)):
        (tmp_path / name).write_text(text)
    return Paths(
        is_system=False,
        config=tmp_path / "cahoots-vllm.toml",
        env_file=tmp_path / ".env",
        runtime_dir=tmp_path / "run",
        state_file=tmp_path / "state.json",
        cache_dir=tmp_path / "cache",
        profile_dirs=(tmp_path / "models.d",),
    )


def load(paths: Paths) -> Settings:
    engine = make_engine(paths.config.parent / "engine")
    return load_settings(paths, CommandLine(engine=engine))


def test_there_are_enough_edits() -> None:
    assert len(EDITS) >= 60


@pytest.mark.parametrize("name", EDITS)
def test_edit_does_what_the_table_says(paths: Paths, tmp_path: Path, name: str) -> None:
    edit = EDITS[name]
    old = load(paths)
    target = tmp_path / edit.file
    if edit.content is None:
        target.unlink()
    else:
        target.write_bytes(edit.content)
    if edit.says is not None:
        with pytest.raises(CahootsError) as raised:
            refuse_lost_provider(old, load(paths))
        assert raised.value.kind is Kind.BAD_SETTINGS
        assert edit.says in f"{raised.value.message}; {raised.value.remedy}"
        assert TOKEN[:12] not in str(raised.value)
        return
    new = load(paths)
    changes = config_changes(old, new)
    assert tuple(change.key for change in changes) == edit.changed
    assert worker_effect(old, new) is edit.worker
    assert edit.warns in " ".join(new.warnings)
    assert bool(edit.warns) == bool(new.warnings), new.warnings
    assert TOKEN[:12] not in repr(changes) + repr(new)
