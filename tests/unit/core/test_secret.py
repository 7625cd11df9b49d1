import pytest

from cahoots_vllm.core.secret import Secret, is_secret_name, mask

PLAIN = "hf_veryPrivate123"


def test_secret_shows_itself_only_when_asked() -> None:
    secret = Secret(PLAIN)
    assert secret.reveal() == PLAIN
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{[secret]}"):
        assert PLAIN not in shown


def test_secret_stays_masked_in_an_error() -> None:
    assert PLAIN not in str(ValueError(Secret(PLAIN)))


def test_secrets_compare_by_value() -> None:
    assert Secret(PLAIN) == Secret(PLAIN)
    assert Secret(PLAIN) != Secret("another")


def test_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret(PLAIN)


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGINGFACE_API_KEY",
        "VLLM_API_KEY",
        "aws_secret_access_key",
        "DB_PASSWORD",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ],
)
def test_names_that_say_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["VLLM_LOGGING_LEVEL", "HF_HOME", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "PATH"]
)
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)


def test_secret_of_several_lines_is_masked_wherever_one_of_them_stands() -> None:
    secret = Secret("first-half\nsecond-half\n")
    assert mask("refused: first-half\nand second-half", [secret]) == "refused: ***\nand ***"


def test_longer_secret_goes_first() -> None:
    assert mask("abcdefgh", [Secret("abcdef"), Secret("abcdefgh")]) == "***"
