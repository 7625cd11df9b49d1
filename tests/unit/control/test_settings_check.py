"""`--check`: files judged without a daemon, each by its own kind, with nothing changed."""

from pathlib import Path

import pytest

from cahoots_vllm.control import settings_check
from cahoots_vllm.control.settings_check import Finding, check_settings
from cahoots_vllm.control.settings_files import CommandLine
from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import EngineInfo
from cahoots_vllm.host.paths import Paths
from fake_vllm.engine_dir import make_engine

TOKEN = "hf_" + "plantedToken" * 2
GOOD_ENV = f"LLM_PROVIDER=local\nLOCAL_LLM_MODEL=org/a\nHUGGINGFACE_API_KEY={TOKEN}\n"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "models.d").mkdir()
    (tmp_path / ".env").write_text(GOOD_ENV)
    return Paths(
        is_system=False,
        config=tmp_path / "cahoots-vllm.toml",
        env_file=tmp_path / ".env",
        runtime_dir=tmp_path / "run",
        state_file=tmp_path / "state.json",
        cache_dir=tmp_path / "cache",
        profile_dirs=(tmp_path / "models.d",),
    )


def check_all(paths: Paths) -> Finding:
    line = CommandLine(engine=make_engine(paths.config.parent / "engine"))
    (finding,) = check_settings(paths, line, [])
    return finding


def check_file(paths: Paths, path: Path) -> Finding:
    (finding,) = check_settings(paths, CommandLine(), [path])
    return finding


def test_good_settings_are_ok_and_named(paths: Paths) -> None:
    finding = check_all(paths)
    assert finding.view == {
        "file": f"{paths.config}, {paths.env_file}",
        "ok": True, "error": None, "remedy": None, "warnings": [],
    }  # fmt: skip


def test_what_is_odd_is_a_warning(paths: Paths) -> None:
    paths.env_file.write_text(f"{GOOD_ENV}LOCAL_LLM_MODLE=org/b\n")
    finding = check_all(paths)
    assert finding.error == ""
    assert "did you mean LOCAL_LLM_MODEL?" in finding.warnings[0]


def test_missing_engine_is_said_by_the_whole_only(paths: Paths) -> None:
    line = CommandLine(engine=paths.config.parent / "none")
    (finding,) = check_settings(paths, line, [])
    assert "it has no bin/vllm" in finding.error
    assert check_file(paths, paths.env_file).error == ""


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("other.env", "no assignment\n", "line 1: not KEY=VALUE"),
        ("other.env", "LLM_PROVIDER=lcoal\n", "did you mean local?"),
        ("other.env", "LOCAL_LLM_URL=localhost\n", "it must be an http URL"),
        ("other.env", f"HUGGINGFACE_API_KEY: {TOKEN}\n", "line 1: not KEY=VALUE"),
        ("other.env", f"HUGGINGFACE_API_KEY='{TOKEN} x'\n", "a token has no blanks"),
        ("c.toml", "[gateway]\nhold_maxx = 1\n", "line 2: gateway.hold_maxx: no such key"),
        ("c.toml", "[gateway\n", "cannot read"),
        ("c.toml", "[options]\nport = 1\n", "options.port: the daemon sets it itself"),
        ("models.d/p.toml", "[options]\n", "name"),
        ("models.d/p.toml", 'name = "x"\n[gateway]\n', "gateway: no such key"),
    ],
)
def test_mistake_is_found_and_no_secret_is_repeated(
    paths: Paths, tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text)
    finding = check_file(paths, tmp_path / name)
    assert says in f"{finding.error}; {finding.remedy}"
    assert finding.remedy
    assert TOKEN not in repr(finding)


def test_profile_is_one_wherever_the_shell_stands(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.d" / "p.toml").write_text('name = "org/p"\nsource = "/models/p"\n')
    monkeypatch.chdir(tmp_path / "models.d")
    assert check_file(paths, Path("p.toml")).error == ""
    monkeypatch.chdir(tmp_path)
    assert check_file(paths, Path("models.d/p.toml")).error == ""


def test_files_are_judged_apart(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "bad.env").write_text("no assignment\n")
    findings = check_settings(
        paths, CommandLine(), [tmp_path / "bad.env", paths.env_file, tmp_path / "none.env"]
    )
    assert [bool(finding.error) for finding in findings] == [True, False, True]
    assert "no such file" in findings[2].error


PROFILE = 'name = "org/a"\n\n[options]\ndtype = "auto"\nmax-modle-len = 4096\n'


def test_option_that_the_engine_does_not_know_is_named_with_file_line_and_the_nearest(
    paths: Paths,
) -> None:
    profile = paths.profile_dirs[0] / "a.toml"
    profile.write_text(PROFILE)
    finding = check_all(paths)
    assert finding.error.startswith(f"cannot use {profile}, line 5: max-modle-len: vLLM ")
    assert finding.remedy == "correct or remove the key (did you mean max-model-len?)"
    line = CommandLine(engine=paths.config.parent / "engine")
    (alone,) = check_settings(paths, line, [profile])
    assert alone.error == finding.error


def test_profile_alone_without_an_engine_is_judged_as_far_as_it_can_be(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = paths.profile_dirs[0] / "a.toml"
    profile.write_text(PROFILE)

    def none(_: Path | None) -> EngineInfo:
        raise CahootsError(Kind.ENGINE_UNUSABLE, "no engine", "install one")

    monkeypatch.setattr(settings_check, "find_engine", none)
    finding = check_file(paths, profile)
    assert finding.error == ""
    assert "no engine is there" in finding.warnings[0]
