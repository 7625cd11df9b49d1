"""What starts have shown of a model's memory, kept in the state file for the next estimate."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from cahoots_vllm.core.evidence import Device
from cahoots_vllm.core.fit.measured import NOTHING_SEEN, Report, Seen, read_report, seen_in
from cahoots_vllm.core.launch import LaunchSpec
from cahoots_vllm.core.memory import read_sizes

_KEPT = 50
_UNIT = 1000
# What changes the bytes on one GPU, beside the sizes that the estimate takes into account.
_MATERIAL = (
    "dtype", "quantization", "tensor-parallel-size", "pipeline-parallel-size", "enforce-eager",
    "kv-cache-dtype", "max-num-batched-tokens", "max-num-seqs", "cpu-offload-gb",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FitKey:
    """What figures are about; `source` is the directory, which has repo and revision in it."""

    source: str
    engine: str
    devices: tuple[str, ...]
    options: str


class FitRecord(BaseModel):
    """The figures of one key as they stand in the state file, bytes on one GPU."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: FitKey
    seen: Seen


def fit_key(launch: LaunchSpec, engine: str, devices: tuple[Device, ...]) -> FitKey:
    """Return the key of a launch spec whose source is a directory."""
    options = " ".join(f"{n}={v}" for n, v in sorted(launch.options) if n in _MATERIAL)
    return FitKey(launch.source, engine, tuple(device.key for device in devices), options)


class FitRecords:
    """Reads the starts' logs; what is whole is kept."""

    def __init__(
        self, records: tuple[FitRecord, ...], save: Callable[[tuple[FitRecord, ...]], None]
    ) -> None:
        """`save` writes all of them."""
        self._seen = {record.key: record.seen for record in records}
        self._save = save
        self._generation = 0
        self._report = Report()

    def find(self, key: FitKey) -> Seen:
        """Return what is known, nothing where nothing is."""
        return self._seen.get(key, NOTHING_SEEN)

    def line(self, generation: int, text: str, launch: LaunchSpec, about: "About | None") -> None:
        """Take in one more line of a worker's log."""
        if generation > self._generation:
            self._generation, self._report = generation, Report()
        if generation < self._generation or self._report.is_whole:
            return  # the last words of one that is going; or a worker that has started
        report = read_report(self._report, text)
        if report == self._report or about is None:
            return
        self._report = report
        if not report.is_whole:
            return
        total = min((device.total_bytes for device in about.devices), default=0)
        seen = seen_in(report, total * read_sizes(launch).share // _UNIT)
        if read_sizes(launch).kv_bytes is not None:  # sized by hand: the rest tells no overhead
            seen = Seen(seen.weights_bytes, None, seen.used_bytes)
        if seen != NOTHING_SEEN:
            self._put(fit_key(launch, about.engine, about.devices), seen)

    def _put(self, key: FitKey, seen: Seen) -> None:
        if self._seen.pop(key, None) == seen:
            self._seen[key] = seen
            return
        self._seen[key] = seen
        while len(self._seen) > _KEPT:
            self._seen.pop(next(iter(self._seen)))
        self._save(tuple(FitRecord(key=k, seen=s) for k, s in self._seen.items()))


@dataclass(frozen=True, slots=True)
class About:
    """Where a start takes place: the engine's version and the devices that it uses."""

    engine: str
    devices: tuple[Device, ...]
