"""Atomic writes, locks, and what reading and appending report."""

import errno
import os

import pytest

from minislm.runtime.errors import UserError
from minislm.runtime.files import (
    append_line,
    atomic_path,
    atomic_write,
    check_unicode,
    lock_file,
    read_text,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_into_a_new_folder(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"é": 1})
    assert (tmp_path / "new" / "a.json").read_text() == '{\n  "\\u00e9": 1\n}\n'
    atomic_write(tmp_path / "new" / "a.json", b"\0\1")
    atomic_write(tmp_path / "new" / "b.txt", "é")
    assert (tmp_path / "new" / "a.json").read_bytes() == b"\0\1"
    assert (tmp_path / "new" / "b.txt").read_bytes() == "é".encode()
    assert names(tmp_path / "new") == ["a.json", "b.txt"]


@pytest.mark.parametrize("where", ["body", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, where):
    atomic_write(tmp_path / "a", "old")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_):
        raise full

    if where != "body":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(UserError, match="cannot write .*a: No space left on device; use a folder"):
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("new")
            assert temporary.parent == tmp_path and (tmp_path / "a").read_text() == "old"
            if where == "body":
                raise full
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_another_error_passes_and_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert not names(tmp_path)


def test_a_file_is_flushed_to_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    atomic_write(tmp_path / "a", "new")
    assert calls[:2] == ["fsync", "replace"]


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        atomic_write(tmp_path / "file" / "a", "new")


def test_a_locked_file_is_locked_until_it_is_closed(tmp_path):
    pytest.importorskip("fcntl")
    with open(tmp_path / "lock", "ab") as first, open(tmp_path / "lock", "ab") as second:
        assert lock_file(first, wait=False) and not lock_file(second, wait=False)
        first.close()
        assert lock_file(second, wait=False)
        assert lock_file(second)


def test_lines_are_appended_and_an_error_has_the_advice(tmp_path):
    append_line(tmp_path / "log", "é", "try again")
    append_line(tmp_path / "log", "two", "try again")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "é\ntwo\n"
    with pytest.raises(UserError, match="cannot write .*; make space, then try again"):
        append_line(tmp_path, "three", "try again")


def test_a_text_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "good.txt").write_bytes("é\r\n".encode())
    assert read_text(tmp_path / "good.txt") == "é\r\n"
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="latin.txt is damaged: it is not UTF-8"):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(UserError, match="cannot read .*none.txt: No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(UserError, match="is not a regular file"):
        read_text(tmp_path)


def test_half_of_a_surrogate_pair_is_no_text():
    check_unicode("é\U0001f600")
    with pytest.raises(UserError, match=r"character 2 is U\+D83D"):
        check_unicode("ab\ud83d")
