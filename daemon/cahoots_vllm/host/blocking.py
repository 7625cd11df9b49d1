"""The one helper for calls that block: NVML, disk, hub. Each has a deadline."""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


async def run_blocking(call: Callable[[], _T], *, deadline_s: float) -> _T:
    """Run a blocking call in a thread. Raises TimeoutError after the deadline.

    Also, and at once, where no thread can be had (TasksMax=): to callers it is the same, a host
    that gives no answer.

    The thread of a call that hangs (a GPU that fell off the bus) cannot be ended; callers must
    not ask again before it came back. It is a thread of its own, not of an executor: both asyncio
    and the interpreter wait for those at the end, however long.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if answer.done():
            return  # nobody waits any more
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type] # without an error it is a _T

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001 (it is raised again where it is awaited)
            error = raised
        with suppress(RuntimeError):  # the loop is closed: the daemon has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    try:
        threading.Thread(target=work, name="blocking", daemon=True).start()
    except RuntimeError as error:
        raise TimeoutError(errno.EAGAIN, "no thread can be had just now") from error
    async with asyncio.timeout(deadline_s):
        return await answer
