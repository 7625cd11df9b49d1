"""Preflight: what is there starts from disk, what is not is fetched, the rest is explained."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from cahoots_vllm.control.preflight import Preflight
from cahoots_vllm.core.diagnosis import Cause, Diagnosis
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.host.hub import Fetched, FetchProgress, FetchReport

_WHOLE = b"\x02" + bytes(7) + b"{}"  # a file of no tensors
_HEADER = b'{"w":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}'
_CUT = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(4)
_SAID = "x.safetensors: 65 bytes, 70 by its header"
_KNOWN = ("SmolLM2-135M-Instruct", "Qwen/Qwen3-32B-Instruct")


class StubHub:
    """A hub that reports what it was given."""

    def __init__(self, *reports: FetchReport) -> None:
        self.reports = reports
        self.asked: list[str] = []

    async def fetch(
        self, repo: str, revision: str | None, env: Mapping[str, str]  # noqa: ARG002 (the seam)
    ) -> AsyncIterator[FetchReport]:  # fmt: skip
        self.asked.append(repo)
        for report in self.reports:
            yield report


def model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"max_position_embeddings": 2048}')
    (directory / "x.safetensors").write_bytes(_WHOLE)
    return directory


def goal(source: str, length: int = 32768) -> LaunchSpec:
    options = (("max-model-len", length),)
    fitted = frozenset({"max-model-len"}) if length == 32768 else frozenset[str]()
    return LaunchSpec(source, source, "/engine", options=options, fitted=fitted)


async def check(
    spec: LaunchSpec, tmp_path: Path, hub: StubHub
) -> tuple[LaunchSpec | Diagnosis, list[tuple[str, float | None]]]:
    said: list[tuple[str, float | None]] = []
    result = await Preflight(hub, tmp_path).check(
        spec, {}, _KNOWN, lambda text, fraction: said.append((text, fraction))
    )
    return result, said


async def test_directory_is_served_as_it_is_with_a_context_that_fits(tmp_path: Path) -> None:
    directory, hub = model(tmp_path / "m"), StubHub()
    result, _ = await check(goal(str(directory)), tmp_path, hub)
    assert isinstance(result, LaunchSpec)
    assert (result.source, result.is_local) == (str(directory), True)
    assert result.option("max-model-len") == 2048
    assert hub.asked == []


async def test_length_that_somebody_asked_for_is_left_alone(tmp_path: Path) -> None:
    result, _ = await check(goal(str(model(tmp_path / "m")), 9000), tmp_path, StubHub())
    assert isinstance(result, LaunchSpec)
    assert result.option("max-model-len") == 9000


async def test_download_is_told_and_its_directory_served(tmp_path: Path) -> None:
    directory = model(tmp_path / "fetched")
    hub = StubHub(FetchProgress(0, 0), FetchProgress(5, 10), Fetched(str(directory)))
    result, said = await check(goal("org/x"), tmp_path, hub)
    assert isinstance(result, LaunchSpec)
    assert result.source == str(directory)
    assert said[1:] == [("downloading org/x", None), ("downloading org/x", 0.5)]


def in_cache(tmp_path: Path) -> Path:
    """Put org/x into the hub's cache; return its snapshot."""
    root = tmp_path / "huggingface" / "hub" / "models--org--x"
    snapshot = model(root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    return snapshot


async def test_model_in_the_cache_needs_no_hub(tmp_path: Path) -> None:
    in_cache(tmp_path)
    hub = StubHub()
    result, _ = await check(goal("org/x"), tmp_path, hub)
    assert isinstance(result, LaunchSpec)
    assert hub.asked == []


async def test_diagnosis_of_the_hub_is_passed_on_with_near_names(tmp_path: Path) -> None:
    hub = StubHub(Diagnosis(Cause.HUB_NOT_FOUND, "404", "check the name", is_retryable=False))
    result, _ = await check(goal("Qwen/Qwen3-32B-Instrukt"), tmp_path, hub)
    assert isinstance(result, Diagnosis)
    assert result.remedy == "check the name; did you mean Qwen/Qwen3-32B-Instruct?"


@pytest.mark.parametrize(
    "name", ["SmolLM2-135M", "./here", "~/there", "a/b/c", "..", "smollm2-135m-instruct"]
)
async def test_name_that_is_none_is_explained_without_the_hub(tmp_path: Path, name: str) -> None:
    hub = StubHub()
    result, _ = await check(goal(name), tmp_path, hub)
    assert isinstance(result, Diagnosis)
    assert (result.cause, result.is_retryable, hub.asked) == (Cause.HUB_NOT_FOUND, False, [])
    if "135" in name or "smol" in name:
        assert "did you mean SmolLM2-135M-Instruct?" in result.remedy


async def test_directory_that_lacks_something_is_named_with_it(tmp_path: Path) -> None:
    result, _ = await check(goal(str(tmp_path)), tmp_path, StubHub())
    assert isinstance(result, Diagnosis)
    assert result.evidence == f"{tmp_path} is no complete model: it has no config.json"


async def test_weights_that_were_cut_short_in_a_directory_are_refused_and_kept(
    tmp_path: Path,
) -> None:
    directory = model(tmp_path / "m")
    (directory / "x.safetensors").write_bytes(_CUT)
    result, _ = await check(goal(str(directory)), tmp_path, StubHub())
    assert isinstance(result, Diagnosis)
    assert (result.cause, result.is_retryable) == (Cause.CORRUPT_WEIGHTS, False)
    assert result.evidence == _SAID
    assert str(directory) in result.remedy
    assert (directory / "x.safetensors").read_bytes() == _CUT


async def test_weights_that_were_cut_short_in_the_cache_are_fetched_again(tmp_path: Path) -> None:
    snapshot = in_cache(tmp_path)
    file = snapshot / "x.safetensors"
    file.write_bytes(_CUT)
    hub = StubHub(Fetched(str(model(tmp_path / "fetched"))))
    result, said = await check(goal("org/x"), tmp_path, hub)
    assert isinstance(result, LaunchSpec)
    assert (hub.asked, file.exists()) == (["org/x"], False)
    assert _SAID in said[0][0]


async def test_weights_that_the_hub_itself_has_cut_short_are_refused(tmp_path: Path) -> None:
    fetched = model(tmp_path / "fetched")
    (fetched / "x.safetensors").write_bytes(_CUT)
    hub = StubHub(Fetched(str(fetched)))
    result, _ = await check(goal("org/x"), tmp_path, hub)
    assert isinstance(result, Diagnosis)
    assert (result.cause, result.is_retryable) == (Cause.CORRUPT_WEIGHTS, False)
    assert _SAID in result.evidence
    assert "another repo" in result.remedy
