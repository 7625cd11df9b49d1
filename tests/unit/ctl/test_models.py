"""The verbs about models on disk at 80 columns, and as programs read them."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from cahoots_vllm.ctl.models import model_table
from cahoots_vllm.ctl.text import Json, Tone

from .conftest import Run
from .fake_daemon import DONE, FakeDaemon, answer, problem

NOW = datetime(2025, 10, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=2)))
LONG = "somebody-with-a-long-name/A-Model-With-A-Long-Name-32B-Instruct-GPTQ-Int4"
HINT = "not whole: `cahootsctl pull` goes on with it, `cahootsctl prune` deletes it"


def row(repo: str, **more: object) -> Json:
    return {
        "repo": repo, "revision": "0123456789abcdef", "refs": ["main"], "path": "/cache/x",
        "size_bytes": 19 << 30, "total_bytes": None, "quantization": "awq",
        "context_length": 40960, "last_used": "2025-09-30T20:01:00Z", "is_whole": True,
        "is_serving": False, "is_downloading": False,
    } | more  # fmt: skip


PART: Json = {
    "revision": None, "refs": [], "path": None, "size_bytes": 1 << 30, "total_bytes": 4 << 30,
    "quantization": None, "context_length": None, "last_used": None, "is_whole": False,
}  # fmt: skip
OWN: Json = {"revision": None, "refs": [], "path": "/srv/models/own", "last_used": None}


def texts(rows: list[Json], width: int = 80) -> list[str]:
    return [line.text for line in model_table(rows, NOW, width)]


def test_short_names_make_a_table() -> None:
    rows = [
        row("org/a", is_serving=True),
        row("org/b", last_used="2025-09-30T23:50:00Z"),
        row("org/b", revision="fedcba9876", refs=[]),
        row("org/c", **PART),
        row("org/d", **PART | {"is_downloading": True}),
        row("own", **OWN | {"quantization": None}),
    ]
    assert texts(rows, 100) == [
        "MODEL  REVISION  SIZE            QUANT  CONTEXT  USED",
        "org/a  01234567  19.0 GiB        awq    40,960   now             serving",
        "org/b  01234567  19.0 GiB        awq    40,960   11 min 0 s ago",
        "org/b  fedcba98  19.0 GiB        awq    40,960   4 h 0 min ago   an older revision",
        "org/c  -         25% of 4.0 GiB  -      -        -               not whole",
        "org/d  -         25% of 4.0 GiB  -      -        -               downloading",
        "own    -         19.0 GiB        -      40,960   -",
        "  in /srv/models/own",
        "",
        HINT,
    ]


def test_long_name_takes_a_line_of_its_own() -> None:
    rows = [row(LONG, quantization="compressed-tensors"), row("org/a", is_serving=True)]
    assert texts([*rows, row("org/c", **PART), row("own", **OWN)]) == [
        LONG,
        "  19.0 GiB, compressed-tensors, 40,960 tokens, used 4 h 0 min ago, revision",
        "  01234567",
        "org/a",
        "  serving, 19.0 GiB, awq, 40,960 tokens, revision 01234567",
        "org/c",
        "  not whole, 25% of 4.0 GiB",
        "own",
        "  19.0 GiB, awq, 40,960 tokens",
        "  in /srv/models/own",
        "",
        HINT,
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_longer_than_the_screen(width: int) -> None:
    rows = [row(f"org/{'x' * n}", quantization="compressed-tensors") for n in range(1, 30, 7)]
    rows += [row("org/c", **PART), row("org/d", **PART | {"is_downloading": True})]
    assert max(map(len, texts(rows, width))) <= width


def test_colours_tell_what_serves_and_what_is_not_whole() -> None:
    rows = [row("org/a", is_serving=True), row("org/c", **PART)]
    assert [line.tone for line in model_table(rows, NOW, 80)][1:3] == [Tone.GOOD, Tone.WARNING]


def test_empty_disk_says_how_to_get_one() -> None:
    assert texts([]) == ["no model is on disk; get one: `cahootsctl pull ORG/NAME`"]


def test_models_is_plain_for_programs(daemon: FakeDaemon, ctl: Run) -> None:
    document = {"models": [row("org/a\x1b[31m", is_serving=True), row(LONG)]}
    daemon.on("GET /v1/models", answer(document))
    shown = ctl("models")
    assert (shown.code, shown.err) == (0, "")
    assert "\x1b" not in shown.out
    assert json.loads(ctl("models", "--json").out) == document


def test_pull_says_where_to_go_from_there(daemon: FakeDaemon, ctl: Run) -> None:
    pulled = DONE | {"kind": "pull", "result": {"path": "/cache/x"}}
    daemon.on("POST /v1/models/pull", answer(pulled, status=202))
    said = "org/B is on disk, after 31 s\nto serve it: `cahootsctl swap-model org/B`\n"
    assert ctl("pull", "org/B") == (0, said, "")
    assert daemon.requests[-1][1] == b'{"model": "org/B"}'
    revised = pulled | {"params": {"model": "org/B@v2"}}
    daemon.on("POST /v1/models/pull", answer(revised, status=202))
    assert ctl("pull", "org/B@v2").out == "org/B@v2 is on disk, after 31 s\n"
    assert json.loads(daemon.requests[-1][1]) == {"model": "org/B", "revision": "v2"}


def test_pull_that_is_busy_says_how_to_wait_for_it(daemon: FakeDaemon, ctl: Run) -> None:
    daemon.on("POST /v1/models/pull", problem("busy", 409, detail="it is running", operation="5"))
    refused = ctl("pull", "org/B")
    assert refused.code == 1
    assert "`cahootsctl operations wait 5` waits for it" in refused.err


def test_removal_says_what_it_freed(daemon: FakeDaemon, ctl: Run) -> None:
    freed = {"removed": "org/B@v2", "freed_bytes": 5 << 30}
    daemon.on("DELETE /v1/models/org--B?rev=v2", answer(freed))
    assert ctl("rm", "org/B@v2") == (0, "org/B@v2 removed, 5.0 GiB more are free\n", "")


def test_prune_lists_and_sums_up_within_the_screen(daemon: FakeDaemon, ctl: Run) -> None:
    what = "revision 01234567, which no name points at"
    found = [{"what": what, "repo": LONG, "size_bytes": 3 << 30}]
    daemon.on("POST /v1/models/prune?dry_run=1", answer({"pruned": found}))
    daemon.on("POST /v1/models/prune?dry_run=0", answer({"pruned": found}), answer({"pruned": []}))
    shown = ctl("prune", "--dry-run").out.splitlines()
    assert shown[0].startswith("   3.0 GiB  somebody-with-a-long-name")
    assert max(map(len, shown)) <= 100
    assert shown[-1] == "3.0 GiB more would be free"
    assert ctl("prune").out.endswith("3.0 GiB more are free\n")
    assert ctl("prune").out == "nothing to prune\n"
