"""One scrape for the daemon, the gateway and the worker, on both of the daemon's sockets."""

from prometheus_client.parser import text_string_to_metric_families

from fake_vllm.script import Behaviour

from .harness import Daemon, wait_for


def page_of(daemon: Daemon) -> dict[str, float]:
    """Return every sample of the gateway's page; no family may be there twice."""
    answer = daemon.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.body.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in families
        for sample in family.samples
    }


def test_figures_of_requests_and_the_workers_own(daemon: Daemon) -> None:
    daemon.play(Behaviour(tokens_per_s=50))
    daemon.start_ready()
    daemon.says("two words")
    usage = {"include_usage": True}
    assert daemon.chat("a b c", stream=True, stream_options=usage).status == 200
    daemon.get("/v1/models")
    found = page_of(daemon)
    chat = "'/v1/chat/completions'"
    assert found[f"cahoots_vllm_gateway_requests_total[{chat}, '200', 'org/a']"] == 2
    assert found["cahoots_vllm_gateway_prompt_tokens_total['org/a']"] == 2 + 3
    assert found["cahoots_vllm_gateway_generation_tokens_total['org/a']"] == 3 + 4
    assert found["cahoots_vllm_gateway_time_to_first_token_seconds_count[]"] == 1
    assert found["cahoots_vllm_gateway_inter_token_seconds_count[]"] > 0
    assert found["cahoots_vllm_phase['ready']"] == 1
    assert found["cahoots_vllm_worker_scrape_up[]"] == 1
    assert found["vllm:generation_tokens_total['0', 'org/a']"] >= 7
    # The control socket has the same page.
    control = daemon.request("GET", "/metrics").body.decode()
    for name in ("vllm:generation_tokens_total", "cahoots_vllm_gateway_requests_total"):
        assert name in control


def test_page_is_there_while_no_worker_is(daemon: Daemon) -> None:
    daemon.play(Behaviour(hang_at="load"))
    daemon.start()
    wait_for(lambda: daemon.phase() == "starting")
    found = page_of(daemon)
    assert found["cahoots_vllm_worker_scrape_up[]"] == 0
    assert not [name for name in found if name.startswith("vllm:")]


def test_held_and_replayed_are_counted(daemon: Daemon) -> None:
    daemon.play(Behaviour(crash_on_prompt="poison", delays_s={"load": 0.5}))
    daemon.start()
    assert daemon.chat("held").status == 200
    assert daemon.chat("poison").status == 503
    daemon.wait_generation(3)
    found = page_of(daemon)
    assert found["cahoots_vllm_gateway_held_seconds_count[]"] >= 2
    assert found["cahoots_vllm_gateway_replayed_total[]"] == 1
    assert found["cahoots_vllm_gateway_suspects_total[]"] == 1
    assert found["cahoots_vllm_gateway_request_ends_total['refused']"] == 1
