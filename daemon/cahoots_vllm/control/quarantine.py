"""Sees to it that an engine whose start died inside its caches begins with empty ones."""

import logging
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from cahoots_vllm.core.launch import engine_cache
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.host.blocking import run_blocking
from cahoots_vllm.host.engine_caches import move_aside

_DEADLINE_S: Final = 60.0  # old ones are deleted, thousands of small files
_LOG: Final = logging.getLogger(__name__)


async def move_caches(settings: Settings) -> None:
    """Move what this version of the engine has compiled aside, and say so in the log.

    Where it cannot be moved the start is tried all the same. A VLLM_CACHE_ROOT that `.env` sets
    is somebody's own, and stays.
    """
    version = settings.engine.version
    directory = Path(engine_cache(settings.cache_dir, version))
    move = partial(move_aside, directory, datetime.now(UTC))
    try:
        aside = await run_blocking(move, deadline_s=_DEADLINE_S)
    except OSError as error:  # a TimeoutError is one too
        why = error.strerror or "no answer in time"
        _LOG.warning("cannot move the caches of vLLM %s in %s aside: %s", version, directory, why)
        return
    if aside is None:
        _LOG.warning("vLLM %s has no caches in %s to be moved aside", version, directory)
    else:
        _LOG.warning("moved vLLM %s's caches to %s: a start died inside them", version, aside)
