"""One key of a `.env` is set: one line differs, the file's owner and mode do not."""

import contextlib
import errno
import io
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from cahoots_vllm.core.errors import CahootsError, Kind
from cahoots_vllm.host import file_swap
from cahoots_vllm.host.env_edit import set_value

KEY = "LOCAL_LLM_MODEL"
NEW = "Qwen/Qwen3-8B"
_NOBODY = 65534
_ACL = "system.posix_acl_access"

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Make a directory that other users reach, which pytest's own they do not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Act as nobody where the tests run as root, who may do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def edited(directory: Path, content: bytes, value: str = NEW) -> bytes:
    path = directory / ".env"
    path.write_bytes(content)
    set_value(path, KEY, value)
    assert list(directory.iterdir()) == [path]
    return path.read_bytes()


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Return entries of tag, permissions and id as linux/posix_acl_xattr.h keeps them."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def refusal(path: Path, value: str = NEW) -> CahootsError:
    with pytest.raises(CahootsError) as raised:
        set_value(path, KEY, value)
    assert not list(path.parent.glob(".*env.*"))
    return raised.value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"KEY=old\n", b"KEY=NEW\n"),
        (b"A=1\nKEY=old", b"A=1\nKEY=NEW"),
        (b"KEY='o' # why\r\nB=2\r\n", b"KEY='NEW' # why\r\nB=2\r\n"),
        (b'export KEY = "o"#x\n', b'export KEY = "NEW"#x\n'),
        (b"  'KEY'  =  o  #x\n", b"  'KEY'  =  NEW  #x\n"),
        (b"KEY=a b #c\n", b"KEY=NEW #c\n"),
        (b"KEY=#c\n", b"KEY=NEW\n"),
        (b"KEY= # c\n", b"KEY= NEW # c\n"),
        (b"KEY#c\n", b"KEY=NEW #c\n"),
        (b"KEY\n", b"KEY=NEW\n"),
        (b"KEY=1\nKEY=2\n", b"KEY=1\nKEY=NEW\n"),
        (b"\xef\xbb\xbfKEY=1\n", b"\xef\xbb\xbfKEY=NEW\n"),
        (b"A=\xff\xfe # \xe4\nKEY=1 #\xe4", b"A=\xff\xfe # \xe4\nKEY=NEW #\xe4"),
        (b"", b"KEY=NEW\n"),
        (b"A=1\r\n", b"A=1\r\nKEY=NEW\r\n"),
        (b"A=1\nB=2", b"A=1\nB=2\nKEY=NEW"),
        (b"#KEY=1\n", b"#KEY=1\nKEY=NEW\n"),
        (b"MY_KEY=1\n", b"MY_KEY=1\nKEY=NEW\n"),
        (b"A='\nKEY=1\n'\n", b"A='\nKEY=1\n'\nKEY=NEW\n"),
        (b"KEY='a\nb'\nC=1\n", b"KEY='NEW'\nC=1\n"),
    ],
)
def test_only_the_value_changes(tmp_path: Path, before: bytes, after: bytes) -> None:
    before, after = (text.replace(b"KEY", KEY.encode()) for text in (before, after))
    assert edited(tmp_path, before) == after.replace(b"NEW", NEW.encode())


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        (b"", "/srv/My Model", b"'/srv/My Model'"),
        (b'"old"', "/srv/My Model", b'"/srv/My Model"'),
        (b'"old"', "/srv/$HOME", b"'/srv/$HOME'"),  # a shell would expand it
        (b"'old'", "a'b\\", b"'a\\'b\\\\'"),
        (b"old", "a #b", b"'a #b'"),
        (b"old", "", b"''"),
    ],
)
def test_quotes_stay_where_the_value_allows_them(
    tmp_path: Path, before: bytes, value: str, after: bytes
) -> None:
    assert edited(tmp_path, b"LOCAL_LLM_MODEL=" + before, value) == b"LOCAL_LLM_MODEL=" + after


def test_value_that_is_there_already_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(f'{KEY}="{NEW}"\n')
    before = path.stat()
    set_value(path, KEY, NEW)
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a${HOME}b", "a\udcffb"])
def test_value_that_no_line_holds_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    assert refusal(path, value).kind is Kind.BAD_REQUEST
    assert path.read_text() == "A=1\n"


def test_value_whose_quotes_would_swallow_a_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    # In any quotes, they would close the ones left open above.
    text = "A='open\nB=\"open\n"
    path.write_text(text)
    assert "would read otherwise" in refusal(path, " x").message
    assert path.read_text() == text
    set_value(path, KEY, NEW)  # which needs none
    assert path.read_text() == f"{text}{KEY}={NEW}\n"


def test_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    real, middle, link = tmp_path / "d" / "real", tmp_path / "d" / "middle", tmp_path / "link"
    real.parent.mkdir()
    real.write_text("A=1\n")
    middle.symlink_to("real")
    link.symlink_to("d/middle")
    set_value(link, KEY, NEW)
    assert (link.is_symlink(), middle.is_symlink(), real.is_symlink()) == (True, True, False)
    assert real.read_text() == f"A=1\n{KEY}={NEW}\n"


def test_mode_and_attributes_stay(directory: Path) -> None:
    path = directory / ".env"
    path.write_text("A=1\n")
    path.chmod(0o640)
    acl = access_list(
        (1, 6, -1), (2, 4, _NOBODY), (4, 4, -1), (16, 4, -1), (32, 0, -1)
    )  # setfacl -m u:65534:r
    try:
        os.setxattr(path, "user.note", b"hello")
        os.setxattr(path, _ACL, acl)
    except OSError as error:
        pytest.skip(f"no attributes here: {error}")
    set_value(path, KEY, NEW)
    assert os.getxattr(path, "user.note") == b"hello"
    assert os.getxattr(path, _ACL) == acl
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_default_access_list_of_the_directory_lets_nobody_in(directory: Path, mode: int) -> None:
    path = directory / ".env"
    path.write_text("A=1\n")
    path.chmod(mode)
    acl = access_list((1, 7, -1), (2, 7, 1234), (4, 7, -1), (16, 7, -1), (32, 0, -1))
    try:
        os.setxattr(directory, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    set_value(path, KEY, NEW)
    assert _ACL not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@only_root
def test_root_keeps_the_owner(directory: Path) -> None:
    path = directory / ".env"
    path.write_text("A=1\n")
    os.chown(path, 1234, 4321)
    path.chmod(0o600)
    set_value(path, KEY, NEW)
    after = path.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (1234, 4321, 0o600)


@only_root
def test_owner_that_cannot_be_kept_is_refused(directory: Path) -> None:
    path = directory / ".env"
    path.write_text("A=1\n")
    path.chmod(0o666)
    directory.chmod(0o777)
    with without_root():
        error = refusal(path)
    assert error.kind is Kind.CONFLICT
    assert error.message == (f"cannot write {path}: its owner, group or access list cannot be kept")
    assert error.remedy == f"as root, put this line into it by hand: {KEY}={NEW}"
    assert (path.read_text(), path.stat().st_uid) == ("A=1\n", 0)


def test_no_permission_says_who_may(directory: Path) -> None:
    path = directory / ".env"
    path.write_text("A=1\n")
    path.chmod(0o444)
    with without_root():
        error = refusal(path)
    assert error.message == f"cannot write {path}: no permission to write the file"
    assert error.remedy.startswith("as ")
    assert error.remedy.endswith(f"by hand: {KEY}={NEW}")


@only_root
def test_file_of_another_user_is_not_written_in_a_closed_directory(directory: Path) -> None:
    path = directory / ".env"
    path.write_text("A=1\n")
    path.chmod(0o666)
    with without_root():
        error = refusal(path)
    assert error.message == f"cannot write {path}: no permission to write in {directory}"
    assert path.read_text() == "A=1\n"


@pytest.fixture
def own_file(directory: Path) -> Iterator[Path]:
    """Make a file of ours in a directory closed to us: the service's, as it is installed."""
    path = directory / ".env"
    path.write_bytes(b"")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)
    directory.chmod(0o555)
    with without_root():
        yield path
    directory.chmod(0o755)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"A='1'\nKEY='an older and longer name'\n", b"A='1'\nKEY='NEW'\n"),
        (b"KEY=o\nB=2", b"KEY=NEW\nB=2"),
        (b"A=1\n", b"A=1\nKEY=NEW\n"),
    ],
)
def test_own_file_in_a_closed_directory_is_written_in_place(
    own_file: Path, before: bytes, after: bytes
) -> None:
    own_file.write_bytes(before.replace(b"KEY", KEY.encode()))
    seen = own_file.stat()
    set_value(own_file, KEY, NEW, is_rehearsal=True)
    assert own_file.read_bytes() == before.replace(b"KEY", KEY.encode())
    set_value(own_file, KEY, NEW)
    wanted = after.replace(b"KEY", KEY.encode()).replace(b"NEW", NEW.encode())
    assert own_file.read_bytes() == wanted
    now = own_file.stat()
    assert (now.st_ino, now.st_mode) == (seen.st_ino, seen.st_mode)


@pytest.mark.parametrize("kept", [0, 3])
def test_write_in_place_that_finds_no_room_leaves_the_old_content(
    own_file: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    old = f"{KEY}=a\nB=2\n".encode()
    own_file.write_bytes(old)
    write, written = os.pwrite, list[bytes]()

    def write_some(file: int, content: bytes, offset: int) -> int:
        written.append(content)
        return write(file, content[:kept] if len(written) == 1 else content, offset)

    monkeypatch.setattr(os, "pwrite", write_some)
    error = refusal(own_file)
    assert "no space left" in error.message
    assert own_file.read_bytes() == old


def test_killed_write_in_place_leaves_no_end_of_the_old_text(
    own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_file.write_bytes(f"B=2\n{KEY}=an/older-and-much-longer-name\n".encode())

    def die(_file: int, _length: int) -> None:
        raise SystemExit

    monkeypatch.setattr(os, "ftruncate", die)
    with pytest.raises(SystemExit):
        set_value(own_file, KEY, NEW)
    assert dotenv_values(own_file) == {"B": "2", KEY: NEW}


def test_change_before_a_write_in_place_wins(
    own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_file.write_text(f"{KEY}=old\n")
    access = os.access

    def edit(path: Path, mode: int, *, effective_ids: bool) -> bool:
        own_file.write_text(f"{KEY}=somebody-elses\n")
        return access(path, mode, effective_ids=effective_ids)

    monkeypatch.setattr(os, "access", edit)
    assert "changed meanwhile" in refusal(own_file).message
    assert own_file.read_text() == f"{KEY}=somebody-elses\n"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo, gone, loop, big = (tmp_path / name for name in ("fifo", "gone", "loop", "big"))
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    big.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    assert "not a regular file" in refusal(fifo).message
    assert "not a regular file" in refusal(tmp_path).message
    assert "not a regular file" in refusal(Path("/dev/null")).message
    assert "it is gone" in refusal(gone).message
    assert "symbolic link" in refusal(loop).message
    assert "4 MiB" in refusal(big).message
    big.write_bytes(b"A=1\n\0\n")
    assert "zero byte" in refusal(big).message


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only file system"),
        (errno.EBUSY, "mounted as a single file"),
    ],
)
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "tempfile.mkstemp"])
def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, said: str
) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(where, fail)
        error = refusal(path)
    assert error.kind is Kind.CONFLICT
    assert said in error.message
    assert error.remedy == f"put this line into it by hand: {KEY}={NEW}"
    assert path.read_text() == "A=1\n"


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "linked", "touched"])
def test_change_in_between_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = tmp_path / ".env"
    real = tmp_path / "real"
    path.write_text("A=1\n")

    def meddle(_: int) -> None:
        if how == "written":
            path.write_text("A=2\n")
        elif how == "touched":
            path.touch()
        elif how == "removed":
            path.unlink()
        else:
            real.write_text("A=3\n")
        if how == "replaced":
            real.rename(path)
        if how == "linked":
            path.unlink()
            path.symlink_to(real)

    monkeypatch.setattr("os.fsync", meddle)
    error = refusal(path)
    assert ("it is gone" if how == "removed" else "it changed meanwhile") in error.message
    left = {"written": "A=2\n", "replaced": "A=3\n", "linked": "A=3\n", "touched": "A=1\n"}
    assert (path.read_text() if path.exists() else None) == left.get(how)


def test_link_that_was_turned_in_between_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, one, two = (tmp_path / name for name in ("link", "one", "two"))
    for file in (one, two):
        file.write_text("A=1\n")
    link.symlink_to(one)

    def meddle(_: int) -> None:
        link.unlink()
        link.symlink_to(two)

    monkeypatch.setattr("os.fsync", meddle)
    assert "it changed meanwhile" in refusal(link).message
    assert (one.read_text(), two.read_text()) == ("A=1\n", "A=1\n")


def test_bound_is_the_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_swap, "_MAX_BYTES", 4)
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    set_value(path, KEY, NEW)
    assert "larger" in refusal(path, "other").message


# --- any file there may be --------------------------------------------------------------------

_blank = st.sampled_from(["", " ", "\t", "   "])
_comment = st.sampled_from(["", "", " # why", "\t#KEY=1", " #", " # 'it' \"is\"", "#tight"])
_value = st.one_of(
    st.sampled_from(["", "old", "a b", "#no", "x#y", "'s'", '"d"', "'a\\'b'", '"a\\"b"', '"é"']),
    st.sampled_from(["${HOME}/x", "'two\nlines'", "\\", "'open", '"open', "it's", "\u2028"]),
    st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=6),
)  # fmt: skip
_key = st.sampled_from(
    [KEY, KEY, "LLM_PROVIDER", "A", "'B'", f"'{KEY}'", "MY_" + KEY, "é", "export"]
)


@st.composite
def _binding(draw: st.DrawFn) -> str:
    indent, before, after = draw(_blank), draw(_blank), draw(_blank)
    export = draw(st.sampled_from(["", "", "export ", "export\t"]))
    equals = draw(st.sampled_from(["=", "=", "=", ""]))
    return f"{indent}{export}{draw(_key)}{before}{equals}{after}{draw(_value)}{draw(_comment)}"


_line = st.one_of(
    _binding(),
    _binding(),
    st.sampled_from(["", "  ", "# a comment", f"#{KEY}=1", "= nothing", "no sense", "'", '"']),
)


@st.composite
def _file(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join(draw(st.lists(_line, max_size=6)))
    text = draw(st.sampled_from(["", "\ufeff"])) + text + draw(st.sampled_from(["", end]))
    odd = draw(st.sampled_from([b"", b"", b"# \xff\xe4" + end.encode()]))
    return odd + text.encode() if not text.startswith("\ufeff") else text.encode()


def _values(content: bytes) -> dict[str, str | None]:
    text = content.decode("utf-8", "surrogateescape")
    return dotenv_values(stream=io.StringIO(text), interpolate=False)


def _lines(content: bytes) -> list[bytes]:
    lines = re.split(rb"\r\n|\n|\r", content)
    return [lines[0].removeprefix(b"\xef\xbb\xbf"), *lines[1:]]


_name = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,20}", fullmatch=True),
    st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=12),
)


@pytest.mark.timeout(60)
@settings(max_examples=600, deadline=None)
@given(content=_file(), value=_name)
def test_one_line_differs_and_all_other_keys_stay(content: bytes, value: str) -> None:
    before = _values(content)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ".env"
        path.write_bytes(content)
        refused = None
        try:
            set_value(path, KEY, value)
        except CahootsError as error:
            refused = error
        after = path.read_bytes()
    if refused is not None:
        # Never for a plain name; another only where quotes left open above leave no way.
        assert re.fullmatch(r"[A-Za-z0-9._/-]+", value) is None
        assert after == content
        return
    assert _values(after) == before | {KEY: value}
    old, new = _lines(content), _lines(after)
    differing = [one for one, other in zip(old, new, strict=False) if one != other]
    if KEY not in before:
        assert len(new) - len(old) in (0, 1)  # it may begin where the last line was empty
        assert not any(differing)
    elif len(old) == len(new):
        assert len(differing) == (before[KEY] != value)
    else:
        assert re.search(r"[\r\n]", before[KEY] or "")  # a value of several lines is now one
