from dataclasses import replace

import pytest

from cahoots_vllm.core.diagnosis.causes import Figures, Trait
from cahoots_vllm.core.memory import (
    DEFAULT_MEMORY_LIMITS as LIMITS,
)
from cahoots_vllm.core.memory import (
    GIB,
    GiveUp,
    Same,
    Wait,
    gate,
)
from unit.core.memory.cases import (
    ANN,
    NOTHING_KNOWN,
    OFF,
    answer,
    asking,
    following,
    host,
    room,
)

MIB = 1 << 20


def test_too_many_kv_bytes_are_lowered_to_what_is_free() -> None:
    asked = asking(kv_bytes=20 * GIB)
    found = answer(asked, Trait.KV_BYTES_TOO_LARGE, said=Figures(free_gib=10.0, total_gib=24.0))
    assert following(found).current == replace(asked.asked, kv_bytes=8704 * MIB)
    assert following(answer(asked, Trait.KV_BYTES_TOO_LARGE)).current.kv_bytes == 17408 * MIB


@pytest.mark.parametrize("trait", [Trait.AFTER_KV, Trait.SERVING])
def test_kv_bytes_go_down_in_place_of_the_share(trait: Trait) -> None:
    asked = asking(kv_bytes=20 * GIB)
    assert following(answer(asked, trait)).current == replace(asked.asked, kv_bytes=17408 * MIB)


def test_too_few_kv_bytes_become_what_is_needed() -> None:
    asked = asking(kv_bytes=2 * GIB)
    short = Figures(needed_gib=4.0, available_gib=2.0, max_model_len=32768)
    found = answer(asked, Trait.KV_TOO_SMALL, said=replace(short, estimated_len=16_000))
    assert following(found).current == replace(asked.asked, kv_bytes=4178 * MIB)
    full = answer(
        asked,
        Trait.KV_TOO_SMALL,
        room(4.0, ANN),
        said=replace(short, estimated_len=16_000),
    )
    assert following(full).current == replace(asked.asked, max_model_len=16_000)
    unknown = answer(
        asked,
        Trait.KV_TOO_SMALL,
        NOTHING_KNOWN,
        said=replace(short, estimated_len=16_000),
    )
    assert following(unknown).current == replace(asked.asked, max_model_len=16_000)


def test_bytes_that_were_raised_too_far_go_back_with_a_shorter_context() -> None:
    asked = asking(kv_bytes=2 * GIB)
    short = Figures(needed_gib=4.0, available_gib=2.0, max_model_len=32768)
    memory = following(answer(asked, Trait.KV_TOO_SMALL, said=replace(short, estimated_len=16_000)))
    memory = following(answer(memory, Trait.AFTER_KV))
    assert memory.current == replace(asked.asked, max_model_len=16_000)


def test_tiny_kv_bytes_do_not_stand_in_the_way_of_other_levers() -> None:
    asked = asking(kv_bytes=32 * MIB)
    assert following(answer(asked, Trait.SAMPLER)).current.max_num_seqs == 128
    doubled = answer(asked, Trait.KV_TOO_SMALL, said=Figures(needed_gib=0.0, available_gib=0.0))
    assert following(doubled).current.kv_bytes == 64 * MIB


def test_kv_bytes_have_a_least_size() -> None:
    found = answer(asking(500, kv_bytes=64 * MIB), Trait.KV_BYTES_TOO_LARGE)
    assert isinstance(found, GiveUp)


def test_kv_bytes_that_nobody_set_cannot_be_lowered() -> None:
    assert isinstance(answer(asking(), Trait.KV_BYTES_TOO_LARGE), GiveUp)


def test_on_the_cpu_kv_bytes_need_no_share() -> None:
    memory = replace(asking(900, kv_bytes=GIB // 2), is_cpu=True)
    busy = host(20.0, ANN)
    assert gate(memory, busy, LIMITS, 0.0) == Same(memory)
    on_gpu = replace(memory, is_cpu=False)
    assert isinstance(gate(on_gpu, busy, LIMITS, 0.0), Wait)


def test_on_the_cpu_host_memory_is_what_the_share_is_of() -> None:
    memory = replace(asking(700), is_cpu=True)
    assert following(answer(memory, Trait.HOST_MEMORY, host(90.0))).current.share == 650
    smallest = replace(asking(500, max_num_batched_tokens=512, max_num_seqs=16), is_cpu=True)
    assert isinstance(answer(smallest, Trait.HOST_MEMORY, host(90.0)), Same)
    assert isinstance(answer(memory, Trait.HOST_MEMORY, host(90.0), OFF), Same)
