"""What the disk refuses is no matter of the network, and says where and what to do."""

import errno
import os

import pytest

from cahoots_vllm.host.hub_errors import explain


def os_error(number: int, *place: str) -> OSError:
    return OSError(number, os.strerror(number), *place)


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (os_error(errno.ENOSPC), "disk_full", "has no room for org/x"),
        (os_error(errno.EDQUOT, "/cache/hub/x"), "disk_full", "has no room for org/x"),
        (os_error(errno.EROFS, "/cache/hub/x"), "unknown", "/cache/hub/x: Read-only file system"),
        (os_error(errno.EACCES, "/cache/hub/x"), "unknown", "/cache/hub/x: Permission denied"),
        (os_error(errno.ECONNREFUSED), "hub_network", "cannot be reached: "),
        (TimeoutError("timed out"), "hub_network", "does not answer"),
    ],
)
def test_errors_of_the_system_are_told_apart(error: OSError, cause: str, said: str) -> None:
    view = explain("org/x", None, error).view()
    assert view["cause"] == cause
    assert said in str(view["evidence"])
    assert ("network" in str(view["remedy"])) is (cause == "hub_network")
    assert view["retry"] is (cause == "hub_network")
