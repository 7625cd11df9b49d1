"""The command line's grammar."""

import pytest

from cahoots_vllm.ctl.parser import build_parser


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "swap-model",
        "swap-model org/B --reset",
        "stat",
        "status --js",
        "wait --timeout soon",
        "wait --timeout -1",
        "wait --timeout inf",
        "logs -n -1",
        "operations show",
        "operations show ../status",
        "operations show 7?x",
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(line.split())
    assert caught.value.code == 2
    assert "usage: cahootsctl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["--json operations show 7", "operations --json show 7", "operations show 7 --json"]
)
def test_common_options_may_stand_anywhere(line: str) -> None:
    args = build_parser().parse_args(line.split())
    assert args.json
    assert args.socket is None


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, said in (("--version", "cahootsctl "), ("--help", "exit status:")):
        with pytest.raises(SystemExit) as caught:
            build_parser().parse_args([option])
        assert caught.value.code == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "said"), [("swap-model", "or a profile"), ("prune", "caches of other engine versions")]
)
def test_help_tells_all_that_a_verb_takes_and_deletes(
    capsys: pytest.CaptureFixture[str], verb: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([verb, "--help"])
    assert said in " ".join(capsys.readouterr().out.split())
