"""What the gateway costs, paired in one run: the engine directly, through us, through HAProxy.

    python tests/bench/gateway_overhead.py [--rounds 10] [--engine DIR --model DIR]

Every round asks each target in turn, so that what else the host does hits all alike. Prints
Markdown with the issue's aims; nothing fails here. `--beside DIR` asks another checkout's
gateway too, `--loop uvloop` runs ours on another event loop. The engine, the proxies and this
client share the host's cores.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from bench.stream_client import Sample, chat_request, measure  # noqa: E402 (needs the path above)
from bench.targets import How, Target, fast_engine, real_engine, targets  # noqa: E402 (as above)

# As a small model on two cores: 32 streams make 3,200 events/s (VLLM.md, 6).
_PACED: Final = ("--first-ms", "20", "--step-ms", "10")
# Of different lengths, so that the streams do not all begin at the same step.
_LATENCY_TOKENS: Final = range(8, 24)
_STAGGER_S: Final = 0.007
_FLOOD_TOKENS: Final = 2000
_FLOOD_REQUESTS: Final = 64
_REAL_TOKENS: Final = 48
_MANY: Final = 32


@dataclass(frozen=True, slots=True)
class Load:
    """What each target is asked in a round."""

    requests: tuple[bytes, ...]
    concurrency: int
    rounds: int
    stagger_s: float = 0.0


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=("latency", "flood", "real"))
    parser.add_argument("--engine", type=Path, help="a real engine's virtual environment")
    parser.add_argument("--model", type=Path, help="a model's directory for it")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--beside", type=Path, help="another checkout: its gateway is asked too")
    asked = parser.parse_args()
    how: tuple[How, ...] = (How("gateway", ROOT / "daemon", asked.loop),)
    if asked.beside is not None:
        how += (How(f"gateway of {asked.beside.name}", asked.beside / "daemon"),)
    _print(
        f"{os.cpu_count()} cores for client, proxy and engine together; load average before: "
        f"{os.getloadavg()[0]:.1f}\n"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        if asked.only in (None, "latency"):
            for concurrency, requests in ((1, 50), (_MANY, 320)):
                mixed = Load(_mixed(requests), concurrency, asked.rounds, _STAGGER_S)
                _latency(directory, how, mixed)
        if asked.only in (None, "flood"):
            for burst in (1, 16):
                flood = (chat_request("fast", _FLOOD_TOKENS),) * _FLOOD_REQUESTS
                _flood(directory, how, Load(flood, _MANY, asked.rounds), burst)
        if asked.engine is not None and asked.only in (None, "real"):
            _real(directory, how, asked.engine, asked.model, asked.rounds)
    return 0


def _mixed(count: int) -> tuple[bytes, ...]:
    lengths = random.Random(count)  # noqa: S311 (the same for everybody, nothing secret)
    return tuple(chat_request("fast", lengths.choice(_LATENCY_TOKENS)) for _ in range(count))


def _latency(directory: Path, how: tuple[How, ...], load: Load) -> None:
    _print(
        f"## Time to first token, {load.concurrency} at a time, fast engine at "
        f"{_PACED[3]} ms a token\n"
    )
    with fast_engine(directory, *_PACED) as (uds, tcp), targets(directory, uds, how, tcp) as found:
        seen = asyncio.run(_rounds(found, load))
    _print_latency(found, seen)


def _flood(directory: Path, how: tuple[How, ...], load: Load, burst: int) -> None:
    _print(f"## Events/s of 225 bytes, {load.concurrency} streams, {burst} a write of the engine\n")
    options = ("--burst", str(burst))
    with fast_engine(directory, *options) as (uds, tcp), targets(directory, uds, how, tcp) as found:
        seen = asyncio.run(_rounds(found, load))
    _print_rates(found, seen)


def _real(directory: Path, how: tuple[How, ...], engine: Path, model: Path, rounds: int) -> None:
    requests = (chat_request("real", _REAL_TOKENS),) * _MANY
    with real_engine(directory, engine, model) as uds, targets(directory, uds, how) as found:
        _print(f"## Real engine, {model.name}, {_MANY} streams of {_REAL_TOKENS} tokens\n")
        asyncio.run(_rounds(found[:1], Load(requests, _MANY, 1)))  # warm up
        seen = asyncio.run(_rounds(found, Load(requests, _MANY, rounds)))
        _print_rates(found, seen)
        _print_latency(found, seen)


async def _rounds(found: list[Target], load: Load) -> dict[str, list[Sample]]:
    """Return each target's samples; who comes first changes with every round."""
    seen: dict[str, list[Sample]] = {target.name: [] for target in found}
    for number in range(load.rounds):
        turn = number % len(found)
        for target in (*found[turn:], *found[:turn]):
            before = target.cpu_s()
            sample = await measure(target.address, load.requests, load.concurrency, load.stagger_s)
            sample.proxy_cpu_s = target.cpu_s() - before
            seen[target.name].append(sample)
    return seen


def _print_latency(found: list[Target], seen: dict[str, list[Sample]]) -> None:
    """Print percentiles, and what each target adds to the first's (aims: 1 ms and 5 ms)."""
    _print("| target | p50 ms | p99 ms | added p50 | added p99 | CPU a request | asked | failed |")
    _print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    base = _percentiles(seen[found[0].name])
    for target in found:
        p50, p99 = _percentiles(seen[target.name])
        samples = seen[target.name]
        count, failed = sum(len(s.first_s) for s in samples), sum(s.failures for s in samples)
        added = f"{p50 - base[0]:+.2f} | {p99 - base[1]:+.2f}" if target != found[0] else " | "
        cpu = _cpu(target, samples, count, "ms")
        _print(f"| {target.name} | {p50:.2f} | {p99:.2f} | {added} | {cpu} | {count} | {failed} |")
    _print_absent(found, 7)


def _percentiles(samples: list[Sample]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    times = [1000 * s for sample in samples for s in sample.first_s]
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _print_rates(found: list[Target], seen: dict[str, list[Sample]]) -> None:
    """Print the median of the rounds, and the median of what each round has of the first's."""
    _print("| target | events/s | range | of direct | CPU an event | failed |")
    _print("| --- | --- | --- | --- | --- | --- |")
    base = [s.events / s.wall_s for s in seen[found[0].name]]
    for target in found:
        samples = seen[target.name]
        rates = [s.events / s.wall_s for s in samples]
        share = statistics.median(r / b for r, b in zip(rates, base, strict=True))
        _print(
            f"| {target.name} | {statistics.median(rates):,.0f} "
            f"| {min(rates):,.0f} to {max(rates):,.0f} | {share:.1%} "
            f"| {_cpu(target, samples, sum(s.events for s in samples), 'µs')} "
            f"| {sum(s.failures for s in samples)} |"
        )
    _print_absent(found, 5)


def _cpu(target: Target, samples: list[Sample], count: int, unit: str) -> str:
    """Return what the proxy used for each; other load on the host hardly touches this."""
    if target.pid is None or not count:
        return ""
    used_s = sum(s.proxy_cpu_s for s in samples) / count
    return f"{used_s * (1e3 if unit == 'ms' else 1e6):.2f} {unit}"


def _print_absent(found: list[Target], columns: int) -> None:
    if all(target.name != "HAProxy" for target in found):
        _print("| HAProxy | not installed" + " |" * columns)
    _print("")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
