from cahoots_vllm.core.errors import CahootsError, Kind


def test_error_keeps_its_parts_and_joins_them_for_logs() -> None:
    error = CahootsError(Kind.BUSY, "cannot swap: a swap is running", "wait for it")
    assert (error.kind, error.message, error.remedy) == (
        Kind.BUSY,
        "cannot swap: a swap is running",
        "wait for it",
    )
    assert str(error) == "cannot swap: a swap is running; wait for it"


def test_error_without_a_remedy_is_its_message() -> None:
    assert str(CahootsError(Kind.INTERNAL, "cannot go on", "")) == "cannot go on"


def test_kinds_are_fit_for_a_url() -> None:
    assert all(kind.value.replace("-", "").isalpha() for kind in Kind)
    assert all(kind.value == kind.value.lower() for kind in Kind)
