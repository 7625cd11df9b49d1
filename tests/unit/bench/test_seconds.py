from pathlib import Path

from bench.seconds_plot import draw
from bench.seconds_table import ANY_DEATH, Seen, keep, ratios, read, rows_of, tables
from bench.start_phases import DAEMON_PHASES, Stamps

KILLED = "SIGKILL of worker"
ROW = ("tiny", KILLED)
SEEN = [
    Seen("tiny", KILLED, "shell-loop", 0, 20.0, 20.5, 190),
    Seen("tiny", KILLED, "daemon", 0, 2.0, 2.25, 0, {"ready": 1.5}),
    Seen("tiny", KILLED, "daemon", 1, 1.0, 1.25, 0, {"ready": 0.5}),
    Seen("tiny", KILLED, "shell-loop", 1, 15.0, 15.5, 150),
    Seen("tiny", KILLED, "shell-loop", 2, 99.0, 99.5, 900),
]


def test_times_faster_are_taken_in_pairs_and_only_there() -> None:
    assert ratios(SEEN, ROW, "shell-loop") == [10.0, 15.0]


def test_deaths_of_several_kinds_are_summed_up_in_pairs() -> None:
    other = [
        Seen("tiny", "SIGKILL of engine-core", "shell-loop", 0, 60.0),
        Seen("tiny", "SIGKILL of engine-core", "daemon", 0, 3.0),
    ]
    assert (ROW[0], ANY_DEATH) not in rows_of(SEEN)
    assert (ROW[0], ANY_DEATH) in rows_of([*SEEN, *other])
    assert sorted(ratios([*SEEN, *other], (ROW[0], ANY_DEATH), "shell-loop")) == [10.0, 15.0, 20.0]


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    for number, one in enumerate(SEEN):
        keep(tmp_path / str(number % 2), one)
    found = read([tmp_path / "0", tmp_path / "1"])
    assert sorted(found, key=repr) == sorted(SEEN, key=repr)


def test_tables_have_medians_and_ranges() -> None:
    text = tables(SEEN)
    assert "| 20.00 s (15.00 to 99.00) |  | 1.50 s (1.00 to 2.00) | 12.5 (10.0 to 15.0) |" in text
    assert "| 20.50 s (15.50 to 99.50), 190 failed |" in text
    assert "| ready | 1.00 |" in text


def test_plot_has_a_bar_for_each_side_that_was_seen() -> None:
    picture = draw(SEEN)
    assert picture.count('fill="#b0b7c3"') == 2, "one in the legend"
    assert "systemd" not in picture


def test_lines_are_stamped_once_and_only_whole_new_ones(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("1 ready old\n")
    stamps = Stamps(log, DAEMON_PHASES, log.stat().st_size)
    with log.open("a") as file:
        file.write("2 starting m: importing\n2 ready m, preparing n: looking\n2 read")
    stamps.look()
    assert list(stamps.at) == ["worker launched"]
    first = stamps.at["worker launched"]
    with log.open("a") as file:
        file.write("y m\n3 starting m: importing\n")
    stamps.look()
    assert list(stamps.at) == ["worker launched", "ready"]
    assert stamps.at["worker launched"] == first
