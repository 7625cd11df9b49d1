"""The page of figures: valid, without duplicates, and of few labels."""

from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cahoots_vllm.control.metrics import worker_part
from cahoots_vllm.gateway.metrics import GatewayMetrics
from cahoots_vllm.gateway.record import End, Gaps, Record, Usage

from .front import get, running


def families(page: bytes | str) -> Iterator[Metric]:
    text = page.decode() if isinstance(page, bytes) else page
    yield from text_string_to_metric_families(text)


def values(metrics: GatewayMetrics) -> dict[str, float]:
    page = generate_latest(metrics.registry)
    return {
        f"{sample.name.removeprefix('cahoots_vllm_gateway_')}{sorted(sample.labels.values())}":
            sample.value
        for family in families(page) for sample in family.samples
        if not sample.name.endswith("_created")
    }  # fmt: skip


def test_a_request_is_counted_in_every_way() -> None:
    metrics = GatewayMetrics()
    record = Record("1", "POST", "/v1/x", 10.0, model="org/a", status=200, held_s=2.0)
    record.deliveries, record.is_suspect, record.usage = 2, True, Usage(7, 40)
    record.events, record.first_byte_at, record.gaps = 41, 12.5, Gaps()
    record.gaps.count(0.4, 40)
    metrics.count(record)
    found = values(metrics)
    assert found["requests_total['/v1/x', '200', 'org/a']"] == 1
    assert found["request_ends_total['answered']"] == 1
    assert found["replayed_total[]"] == found["suspects_total[]"] == 1
    assert found["prompt_tokens_total['org/a']"] == 7
    assert found["generation_tokens_total['org/a']"] == 40
    assert (found["held_seconds_count[]"], found["held_seconds_sum[]"]) == (1, 2.0)
    assert found["time_to_first_token_seconds_sum[]"] == 2.5
    assert found["inter_token_seconds_count[]"] == 40
    assert found["inter_token_seconds_sum[]"] == pytest.approx(0.4)
    assert found["inter_token_seconds_bucket['0.01']"] == 40


def test_refused_request_has_no_first_token() -> None:
    metrics = GatewayMetrics()
    metrics.count(Record("1", "POST", "other", 10.0, status=404, end=End.REFUSED))
    found = values(metrics)
    assert found["time_to_first_token_seconds_count[]"] == 0
    assert found["requests_total['', '404', 'other']"] == 1


def test_workers_page_keeps_what_is_the_engines_own() -> None:
    page = (
        '# HELP python_info Platform.\n# TYPE python_info gauge\npython_info{v="3"} 1.0\n'
        "# HELP process_open_fds Open.\n# TYPE process_open_fds gauge\nprocess_open_fds 9.0\n"
        "# HELP vllm:num_requests_running Running.\n# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{model_name="a"} 2.0\n'
        "# HELP http_requests_total Total.\n# TYPE http_requests_total counter\n"
        "http_requests_total 3.0\n"
    )  # fmt: skip
    names = [family.name for family in families(worker_part(page))]
    assert names == ["vllm:num_requests_running", "http_requests"]
    assert worker_part("") == ""


async def test_gateway_counts_what_it_serves() -> None:
    metrics = GatewayMetrics()
    async with running() as front:
        await front.post(b'{"model":"a"}')
        await front.send(get("/v1/hf_secret"))
        await front.send(get("/sleep"))
    for record in front.records:
        metrics.count(record)
    found = values(metrics)
    assert found["requests_total['', '/v1/chat/completions', '200']"] == 1
    assert found["requests_total['', '/v1/...', '200']"] == 1
    assert found["requests_total['', '404', 'other']"] == 1
    assert not [name for name in found if "secret" in name]
