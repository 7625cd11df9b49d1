"""`check MODEL`: what the hub's word, the disk and the files make of a model that nobody serves."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cahoots_vllm.control.model_check import ModelCheck, ModelReport
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.level import Level
from cahoots_vllm.core.secret import Secret
from cahoots_vllm.host.hub_answer import HubSight
from cahoots_vllm.host.model_store import hub_folder

from .test_fit_check import CONFIG, GIB, SETTINGS, Looks, model

_FILES = {"config.json": 500, "model.safetensors": GIB, "README.md": 9}


class StubLook:
    """A hub that says what it was given."""

    def __init__(self, answer: HubSight | Diagnosis | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None]] = []

    async def look(
        self, repo: str, revision: str | None, env: Mapping[str, str]  # noqa: ARG002 (the seam)
    ) -> HubSight | Diagnosis:  # fmt: skip
        self.asked.append((repo, revision))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def sight(files: Mapping[str, int] = _FILES, *, is_gated: bool = False) -> HubSight:
    return HubSight(dict(files), CONFIG, is_gated)


async def check(
    hub: HubSight | Diagnosis | Exception, cache: Path, name: str = "org/x"
) -> ModelReport:
    return await ModelCheck(Looks().check, StubLook(hub), cache).check(name, (), SETTINGS)


def levels(report: ModelReport) -> dict[str, Level]:
    return {one.name: one.level for one in report.checks}


@pytest.fixture
def _much_room(monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")._replace(free=100 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)


@pytest.mark.usefixtures("_much_room")
async def test_repo_that_could_be_downloaded_and_fits(tmp_path: Path) -> None:
    report = await check(sight(), tmp_path / "not-there-yet")
    assert set(levels(report).values()) == {Level.OK}
    assert [one.name for one in report.checks][:3] == ["files", "access", "disk"]
    assert "1.0 GiB to download" in report.checks[0].sentence
    assert (report.level, report.weights_bytes is not None) == (Level.OK, True)


async def test_too_little_disk_is_said_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage("/")._replace(free=GIB + GIB // 2)
    asked: list[Path] = []

    def usage(place: Path) -> object:
        asked.append(place)
        return free

    monkeypatch.setattr(shutil, "disk_usage", usage)
    hub_folder(tmp_path).mkdir(parents=True)
    report = await check(sight(), tmp_path)
    assert asked == [hub_folder(tmp_path)]  # where a disk of its own may be mounted
    (disk,) = (one for one in report.checks if one.name == "disk")
    assert (disk.level, report.level) == (Level.FAIL, Level.FAIL)
    assert "1.5 GiB free" in disk.sentence
    assert "1.0 GiB are wanted" in disk.sentence
    assert "cahootsctl models" in disk.remedy
    assert levels(report)["memory"] is Level.OK  # the rest is told all the same


@pytest.mark.usefixtures("_much_room")
@pytest.mark.parametrize(
    "files",
    [{"config.json": 9, "model-q4.gguf": GIB}, {"config.json": 9}, {"model.onnx": GIB}, {}],
    ids=["GGUF only", "no weights", "another format", "empty"],
)
async def test_repo_without_weights_to_download_fails(
    tmp_path: Path, files: dict[str, int]
) -> None:
    report = await check(sight(files), tmp_path)
    assert (report.checks[0].name, report.checks[0].level) == ("files", Level.FAIL)
    assert "no weights that can be downloaded" in report.checks[0].sentence
    assert "GGUF" in report.checks[0].remedy


@pytest.mark.usefixtures("_much_room")
async def test_only_the_weights_of_one_format_are_counted(tmp_path: Path) -> None:
    files = {"a.safetensors": GIB, "a.bin": GIB, "a.gguf": GIB, "tf.h5": GIB, "config.json": 9}
    assert "1.0 GiB to download" in (await check(sight(files), tmp_path)).checks[0].sentence


@pytest.mark.usefixtures("_much_room")
async def test_gated_repo_that_may_be_read_is_said_to_be(tmp_path: Path) -> None:
    report = await check(sight(is_gated=True), tmp_path)
    assert "gated" in {one.name: one.sentence for one in report.checks}["access"]


async def test_repo_that_is_not_found_brings_near_names(tmp_path: Path) -> None:
    (tmp_path / "huggingface" / "hub" / "models--org--tiny").mkdir(parents=True)
    missing = Diagnosis(
        Cause.HUB_NOT_FOUND, "no repo org/tinny", "check the name", is_retryable=False
    )
    report = await check(missing, tmp_path, "org/tinny")
    (files,) = report.checks
    assert (files.name, files.level) == ("files", Level.FAIL)
    assert files.remedy.startswith("check the name; did you mean org/tiny")


async def test_refusal_of_the_token_is_about_access_and_shows_no_token(tmp_path: Path) -> None:
    said = Diagnosis(Cause.HUB_AUTH, "hf_abcdefgh is no token", "get another", is_retryable=False)
    settings = replace(SETTINGS, secret_env=(("HF_TOKEN", Secret("hf_abcdefgh")),))
    checker = ModelCheck(Looks().check, StubLook(said), tmp_path)
    (access,) = (await checker.check("org/x", (), settings)).checks
    assert access.name == "access"
    assert "abcdefgh" not in access.sentence


@pytest.mark.parametrize("name", ["x", "a/b/c", "/no/such", "./x", "../..", "/dev/null", "~/x"])
async def test_what_is_no_name_of_a_model_is_never_asked_for(tmp_path: Path, name: str) -> None:
    hub = StubLook(sight())
    report = await ModelCheck(Looks().check, hub, tmp_path).check(name, (), SETTINGS)
    assert (report.level, report.checks[0].name) == (Level.FAIL, "files")
    assert "ORG/NAME" in report.checks[0].remedy
    assert hub.asked == []


async def test_model_on_disk_is_not_asked_for(tmp_path: Path) -> None:
    launch = model(tmp_path / "a")
    hub = StubLook(sight())
    report = await ModelCheck(Looks().check, hub, tmp_path).check(launch.source, (), SETTINGS)
    assert report.level is Level.OK
    assert f"in {launch.source}" in report.checks[0].sentence
    assert hub.asked == []


async def test_damaged_weights_on_disk_are_told_before_a_start_finds_them(tmp_path: Path) -> None:
    launch = model(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"short")
    checker = ModelCheck(Looks().check, StubLook(sight()), tmp_path)
    report = await checker.check(launch.source, (), SETTINGS)
    (one,) = report.checks
    assert (one.name, one.level) == ("files", Level.FAIL)
    assert "model.safetensors: 5 bytes" in one.sentence
    assert launch.source in one.remedy


async def test_damaged_weights_of_the_hub_are_fetched_again_by_a_start(tmp_path: Path) -> None:
    root = hub_folder(tmp_path) / "models--org--x"
    (root / "snapshots").mkdir(parents=True)
    model(root / "snapshots" / "abc")
    (root / "snapshots" / "abc" / "model.safetensors").write_bytes(b"short")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    report = await check(sight(), tmp_path)
    assert levels(report)["files"] is Level.WARN
    assert "memory" in levels(report)
    assert "fetches it again" in report.checks[0].remedy


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), TimeoutError()])
async def test_files_that_cannot_be_read_are_a_sentence(tmp_path: Path, error: OSError) -> None:
    (one,) = (await check(error, tmp_path)).checks
    assert (one.name, one.level) == ("files", Level.FAIL)
    assert "cannot read the files of org/x" in one.sentence
    assert one.remedy


@pytest.mark.usefixtures("_much_room")
async def test_options_of_the_question_go_before_the_settings(tmp_path: Path) -> None:
    checker = ModelCheck(Looks().check, StubLook(sight()), tmp_path)
    report = await checker.check("org/x", (("max-model-len", 4096),), SETTINGS)
    assert levels(report)["context"] is Level.FAIL
    report = await checker.check("org/x", (("max-model-len", 1024),), SETTINGS)
    assert (levels(report)["context"], report.max_model_len) == (Level.OK, 1024)
