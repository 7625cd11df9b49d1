"""How a download's speed is told."""

from cahoots_vllm.core.amounts import size_text
from cahoots_vllm.core.transfer import Transfer


def test_rate_and_time_left_are_of_the_last_half_minute() -> None:
    transfer = Transfer()
    transfer.add(0.0, 0)
    assert transfer.bytes_per_s is None
    assert transfer.text(10 * 2**30) == "0% of 10.0 GiB"
    for second in range(1, 101):
        transfer.add(float(second), 2**30 if second < 70 else (2**30 + (second - 69) * 2**20))
    assert transfer.bytes_per_s is not None
    assert transfer.text(2 * 2**30) == "52% of 2.0 GiB, 1.0 MiB/s, 17 min left"


def test_download_that_stands_still_promises_nothing() -> None:
    transfer = Transfer()
    transfer.add(0.0, 5)
    transfer.add(9.0, 5)
    assert transfer.text(2**20) == "0% of 1.0 MiB"


def test_long_downloads_are_told_in_hours() -> None:
    transfer = Transfer()
    transfer.add(0.0, 0)
    transfer.add(1.0, 2**20)
    assert transfer.text(10 * 2**30).endswith("2 h 51 min left")
    assert size_text(0) == "0.0 MiB"
