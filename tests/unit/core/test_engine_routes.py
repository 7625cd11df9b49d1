"""Which of the engine's routes clients reach."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahoots_vllm.core.engine_routes import below_base, find_route, route_label

# vLLM 0.32 with VLLM_SERVER_DEV_MODE=1, and what steers a server without it.
_STEERING = (
    "/sleep", "/wake_up", "/is_sleeping", "/release_kv_cache_memory", "/server_info",
    "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/collective_rpc", "/pause",
    "/resume", "/is_paused", "/abort_requests", "/update_weights", "/get_world_size",
    "/start_profile", "/stop_profile", "/scale_elastic_ep", "/is_scaling_elastic_ep",
    "/fault_tolerance/apply", "/fault_tolerance/status", "/kv_event_sources",
    "/init_weight_transfer_engine", "/weight_info", "/weight_checker",
)  # fmt: skip
_PIECES = st.sampled_from(
    ["/", "//", "..", ".", "%2e", "%2E", "%2f", "%5c", "\\", "%00", "%25", "v1", "sleep", "%73leep",
     "collective_rpc", "?", "#", ";", "http://", "\t", "ä"]
)  # fmt: skip


@pytest.mark.parametrize("path", _STEERING)
def test_routes_that_steer_the_engine_are_none(path: str) -> None:
    assert find_route(path) is None


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens",
     "/v1/responses/abc/cancel", "/v2/rerank", "/cohere/v2/chat", "/inference/v1/generate",
     "/tokenize", "/detokenize", "/score", "/version", "/ping", "/openapi.json", "/v1/realtime",
     "/v1/audio/transcriptions"],
)  # fmt: skip
def test_routes_that_answer_are_served(path: str) -> None:
    assert find_route(f"{path}?a=%2F..") == path


@given(st.lists(_PIECES, max_size=8).map(lambda pieces: "/" + "".join(pieces)))
def test_what_is_served_reads_one_way_only(target: str) -> None:
    route = find_route(target)
    if route is None:
        return
    assert unquote(target.partition("?")[0]) == route
    assert unquote(route) == route
    assert not set(route.split("/")) & {"..", "."}
    assert "//" not in route
    assert route.startswith(("/v1/", "/v2/")) or route.count("/") == 1
    assert route not in _STEERING


def test_label_has_nothing_of_the_clients() -> None:
    assert route_label("/v1/responses/resp_1/cancel") == "/v1/responses/{id}/cancel"
    assert route_label("/v1/responses/render") == "/v1/responses/render"
    assert route_label("/v1/chat/completions") == "/v1/chat/completions"
    assert route_label("/v1/models/org/a") == "/v1/..."
    assert route_label("/v1/hf_abcdef") == "/v1/..."
    assert route_label("/tokenize") == "/tokenize"


@pytest.mark.parametrize(
    ("target", "base", "expected"),
    [("/v1/models", "/v1", "/v1/models"), ("/llm/v1/models?x=1", "/llm/v1", "/v1/models?x=1"),
     ("/v1/models", "/llm/v1", "/v1/models"), ("/llm/v12/models", "/llm/v1", "/llm/v12/models"),
     ("/models", "", "/models")],
)  # fmt: skip
def test_base_path_of_the_url_stands_for_v1(target: str, base: str, expected: str) -> None:
    assert below_base(target, base) == expected


@pytest.mark.parametrize("target", ["/v1/a\udcb9", "/v1/models?q=\udcb9", "/v1/ä"])
def test_bytes_that_are_no_ascii_are_refused(target: str) -> None:
    assert find_route(target) is None
