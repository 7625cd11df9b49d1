"""What survives a daemon restart: the override, the last generation, the worker that runs."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cahoots_vllm.control.fit_records import FitRecord
from cahoots_vllm.control.learned import MemoryRecord
from cahoots_vllm.host.files import write_atomically
from cahoots_vllm.worker.leftovers import WorkerMark

_LATEST = 253_402_300_799  # the last second that datetime knows


class StateRecord(BaseModel):
    """The state file; unknown fields of a newer version are kept out, not an error."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    override: str | None = None
    # LOCAL_LLM_MODEL when the override was set: once that changes, the override ends.
    configured_model: str | None = None
    generation: int = 0
    worker: WorkerMark | None = None
    # What starts have taught about memory, the oldest first.
    memory: tuple[MemoryRecord, ...] = ()
    # Seconds that the last starts took until ready, by what the model is loaded from.
    load_times: dict[str, tuple[float, ...]] = {}
    # What starts have shown of a model's memory, the oldest first.
    fits: tuple[FitRecord, ...] = ()
    # When a worker last served each model, seconds since 1970, the one of longest ago first.
    last_used: dict[str, float] = {}


def _whole_lessons(found: object) -> tuple[MemoryRecord, ...]:
    """Return those that can be read: one that is damaged must not take the others along."""
    whole = []
    for lesson in found if isinstance(found, list) else ():
        with suppress(ValidationError):
            whole.append(MemoryRecord.model_validate(lesson))
    return tuple(whole)


_TIMES = TypeAdapter(dict[str, tuple[float, ...]])


def _whole_times(found: object) -> dict[str, tuple[float, ...]]:
    """Return load times, none where they are damaged: the next starts teach them anew."""
    try:
        return _TIMES.validate_python(found)
    except ValidationError:
        return {}


_USED = TypeAdapter(dict[str, Annotated[float, Field(ge=0, le=_LATEST)]])


def _whole_used(found: object) -> dict[str, float]:
    """Return when models were used, nothing where it is damaged: the files' own times are left."""
    try:
        return _USED.validate_python(found)
    except ValidationError:
        return {}


_FITS = TypeAdapter(tuple[FitRecord, ...])


def _whole_fits(found: object) -> tuple[FitRecord, ...]:
    """Return the figures, none where they are damaged: the next starts show them anew."""
    try:
        return _FITS.validate_python(found)
    except ValidationError:
        return ()


def _length(found: object) -> int:
    return len(found) if isinstance(found, list | tuple) else 1


class StateFile:
    """Reads once, writes atomically."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist."""
        self._path = path
        self.record = StateRecord()
        self.error: str | None = None
        self._damage: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What people should know: a file put aside at the start, one that cannot be written."""
        return tuple(text for text in (self._damage, self.error) if text is not None)

    def load(self) -> StateRecord:
        """Return the record; a damaged file is put aside, never a reason not to start."""
        try:
            document = json.loads(self._path.read_bytes())
            is_record = isinstance(document, dict)
            memory = document.pop("memory", ()) if is_record else ()
            times = document.pop("load_times", {}) if is_record else {}
            fits = document.pop("fits", ()) if is_record else ()
            used = document.pop("last_used", {}) if is_record else {}
            self.record = StateRecord.model_validate(document)
        except FileNotFoundError:
            return self.record
        except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
            self._damage = f"{self._path} could not be read and was put aside: {error}".split("\n")[
                0
            ]
            self._put_aside()
            return self.record
        lessons = _whole_lessons(memory)
        kept: dict[str, object] = {"memory": lessons, "load_times": _whole_times(times)}
        kept |= {"fits": _whole_fits(fits), "last_used": _whole_used(used)}
        self.record = self.record.model_copy(update=kept)
        if (count := _length(memory) - len(lessons)) > 0:
            self._damage = f"{count} lessons about memory in {self._path} were damaged: forgotten"
        return self.record

    def _put_aside(self) -> None:
        try:
            self._path.replace(self._path.with_suffix(".damaged"))
        except OSError as error:
            self._damage = f"cannot put {self._path} aside: {error.strerror}"

    def save(self, **changes: object) -> None:
        """Change and write the record. A full disk is kept as `error`: serving goes on."""
        record = self.record.model_copy(update=changes)
        if record == self.record and self.error is None:
            return
        self.record = record
        try:
            write_atomically(self._path, record.model_dump_json(indent=1) + "\n")
        except OSError as error:
            self.error = f"cannot write {self._path}: {error.strerror}"
        else:
            self.error = None
