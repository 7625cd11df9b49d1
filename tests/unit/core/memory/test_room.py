from dataclasses import replace

import pytest

from cahoots_vllm.core.evidence import Device, Holder
from cahoots_vllm.core.launch import LaunchSpec, OptionValue
from cahoots_vllm.core.memory import GIB, Room, used_devices
from unit.core.memory.cases import ANN, IDLE, NOTHING_KNOWN, OURS, gpu, host, room

BOARD = tuple(replace(gpu(90.0 + n), key=f"GPU-{key}") for n, key in enumerate(("ab1", "ab2", "c")))


def used(visible: str | None = None, **parallel: OptionValue) -> list[str]:
    options = tuple((name.replace("_", "-"), value) for name, value in parallel.items())
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return [d.key for d in used_devices(LaunchSpec("m", "m", "/e", options=options), env, BOARD)]


def test_the_limit_is_what_is_free_less_a_margin_in_whole_hundredths() -> None:
    assert room(60.0).limit == 590
    assert room(60.49).limit == 590
    assert room(60.5).limit == 600


def test_the_host_needs_a_larger_margin() -> None:
    assert host(60.0).limit == 580
    assert host(60.0).spare_bytes == 58 * GIB


def test_nothing_is_known_without_devices() -> None:
    assert NOTHING_KNOWN.limit is None
    assert NOTHING_KNOWN.smallest_gib is None
    assert NOTHING_KNOWN.spare_bytes is None
    assert NOTHING_KNOWN.shortage(999) is None


def test_less_than_the_margin_is_nothing() -> None:
    assert room(0.2).limit == 0
    assert Room((Device("x", "x", 0, 0),)).limit == 0


def test_the_worst_gpu_counts() -> None:
    both = Room((gpu(90.0), gpu(40.0, ANN, total_gib=80.0, name="GPU 1")))
    assert both.limit == 490
    assert both.smallest_gib == 80.0
    assert both.has_holders
    lacking = both.shortage(600)
    assert lacking is not None
    assert (lacking.device, lacking.holders) == ("GPU 1", (ANN,))
    assert (lacking.free_bytes, lacking.wanted_bytes) == (40 * GIB, 48 * GIB)
    for order in (both, Room(both.devices[::-1])):
        worst = order.shortage(950)
        assert worst is not None
        assert worst.device == "GPU 1"


def test_shortage_is_the_engines_own_test_to_the_byte() -> None:
    assert room(60.0).shortage(600) is None
    assert room(60.0).shortage(601) is not None
    assert Room((Device("x", "x", 1000, 599),)).shortage(600) is not None


def test_a_shortage_names_the_largest_holder_first() -> None:
    small = Holder(8, "bob", "", None)
    lacking = room(10.0, small, ANN).shortage(900)
    assert str(lacking) == (
        "GPU 0 has 10.0 of 100.0 GiB free, 90.0 GiB are wanted; held by "
        "train (pid 7, user ann, 30720 MiB), a process (pid 8, user bob)"
    )
    assert str(room(10.0).shortage(900)).endswith("held by processes not visible here")


def test_holder_that_is_hidden_is_named_by_its_pid() -> None:
    hidden = Holder(9, "", "", 5 * GIB)
    shortage = str(room(10.0, hidden).shortage(900))
    assert shortage.endswith("held by a process (pid 9, 5120 MiB)")


def test_memory_of_our_own_earlier_worker_is_told_apart() -> None:
    ours, theirs = room(10.0, ANN, OURS).shortage(900), room(10.0, ANN).shortage(900)
    assert ours is not None
    assert theirs is not None
    assert ours.is_ours
    assert not theirs.is_ours
    assert not IDLE.has_holders


@pytest.mark.parametrize(
    ("visible", "keys"),
    [
        (None, ["GPU-ab1"]),
        ("2", ["GPU-c"]),
        ("GPU-c", ["GPU-c"]),
        ("GPU-ab", []),  # two begin like that
        ("", []),
        ("-1", []),
        ("7,0", []),  # an unknown entry ends the list
        ("MIG-1", []),
        (" 1 , 0", ["GPU-ab2"]),
    ],
)
def test_the_visible_gpus_are_used(visible: str | None, keys: list[str]) -> None:
    assert used(visible) == keys


def test_parallel_workers_use_several_gpus_in_order() -> None:
    assert used(tensor_parallel_size=2) == ["GPU-ab1", "GPU-ab2"]
    assert used(tensor_parallel_size="2") == ["GPU-ab1", "GPU-ab2"]
    assert used("2,0,1", tensor_parallel_size=2) == ["GPU-c", "GPU-ab1"]
    assert used(pipeline_parallel_size=2, data_parallel_size=2) == ["GPU-ab1", "GPU-ab2", "GPU-c"]
    assert used(tensor_parallel_size=-3) == ["GPU-ab1"]


def test_the_specs_own_variables_win_over_the_daemons() -> None:
    spec = LaunchSpec("m", "m", "/e", env=(("CUDA_VISIBLE_DEVICES", "1"),))
    assert used_devices(spec, {"CUDA_VISIBLE_DEVICES": "2"}, BOARD) == (BOARD[1],)


def test_on_the_cpu_engine_it_is_the_host() -> None:
    devices = host(50.0).devices
    assert used_devices(LaunchSpec("m", "m", "/e"), {"CUDA_VISIBLE_DEVICES": "1"}, devices) == (
        devices
    )
