"""The way that `cahootsctl bench` takes to the gateway."""

import pytest

from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.ctl.bench import gateway_route

_SOCKET = "unix:/run/cahoots-vllm-gateway/gateway.sock"


def test_first_tcp_address_is_asked_whatever_is_before_it() -> None:
    route = gateway_route({"endpoint": [_SOCKET, "http://[::1]:8002/llm/v1", "http://10.0.0.1:1"]})
    assert (route.address, route.prefix) == (("::1", 8002), "/llm/v1")


def test_gateway_on_unix_sockets_alone_is_said() -> None:
    with pytest.raises(CahootsError, match="no TCP address"):
        gateway_route({"endpoint": [_SOCKET]})
