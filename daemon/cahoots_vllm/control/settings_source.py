"""The settings as they are read again: when they were loaded, what was wrong the last time."""

from collections.abc import Callable
from datetime import UTC, datetime

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.blocking import run_blocking

_DEADLINE_S = 10.0


class SettingsSource:
    """Reads the files on request; the last good settings are the supervisor's."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        """`load` was called once already, at the start."""
        self._load = load
        self.loaded_at = _now()
        # Why the last ones could not be used; until good ones are read.
        self.error: str | None = None

    async def peek(self) -> Settings:
        """Return the settings as they stand in the files now. Raises CahootsError."""
        try:
            return await run_blocking(self._load, deadline_s=_DEADLINE_S)
        except TimeoutError as error:
            remedy = "a network disk may be gone; nothing that runs is touched"
            raise CahootsError(
                Kind.BAD_SETTINGS, "cannot read the settings: no answer from the disk", remedy
            ) from error

    def used(self) -> None:
        """Note that what the files say is used from now on."""
        self.error, self.loaded_at = None, _now()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
