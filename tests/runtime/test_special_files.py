"""Output files that are links, pipes or devices, and file systems that lack something."""

import errno
import os
import stat
import threading

import pytest

from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_path, atomic_write, link_or_copy, write_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and modes are different")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("links", [1, 2])
def test_a_link_is_followed(tmp_path, links, there):
    target = tmp_path / "other" / "target.json"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    for n in range(links):  # relative ones
        (tmp_path / f"link{n}").symlink_to(f"link{n + 1}" if n + 1 < links else "other/target.json")
    atomic_write(tmp_path / "link0", "new")
    assert (tmp_path / "link0").is_symlink() and target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["target.json"]
    assert len(list(tmp_path.iterdir())) == links + 1


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("size", [3, 300_000])  # less and more than a pipe holds
def test_a_pipe_is_written_to(tmp_path, link, size):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    atomic_write(tmp_path / ("link" if link else "pipe"), size * b"x")
    reader.join(10)
    assert found == [size * b"x"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_device_is_written_to(tmp_path):
    try:
        main, end = os.openpty()
    except OSError:
        pytest.skip("no terminals here: /dev/pts is not mounted")
    (tmp_path / "device").symlink_to(os.ttyname(end))
    write_json(tmp_path / "device", {"a": 1})
    assert b'"a": 1' in os.read(main, 100) and (tmp_path / "device").is_symlink()
    for number in (main, end):
        os.close(number)


def test_a_pipe_whose_reader_ends_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: open(tmp_path / "pipe", "rb").close())
    reader.start()
    with pytest.raises(UserError, match="cannot write .*pipe: Broken pipe"):
        for _ in range(9):  # the first may be written before the reader ends
            atomic_write(tmp_path / "pipe", 300_000 * b"x")
    reader.join(10)


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_a_file_has_the_mode_that_the_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a") as temporary:  # as safetensors writes its files
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        atomic_write(tmp_path / "b", "new")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [mode, mode]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ENOTSUP, errno.EBADF])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_need_not_be_flushed(tmp_path, monkeypatch, number, call):
    real = getattr(os, call)

    def refuse(target, *flags):
        path = target if call == "open" else f"/proc/self/fd/{target}"
        if os.path.isdir(path):
            raise OSError(number, os.strerror(number))
        return real(target, *flags)

    monkeypatch.setattr(os, call, refuse)
    atomic_write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK])
def test_a_file_is_copied_where_there_are_no_links(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"whole")
    monkeypatch.setattr(os, "link", refuse)
    with atomic_path(tmp_path / "b") as temporary:
        link_or_copy(tmp_path / "a", temporary)
    assert (tmp_path / "b").read_bytes() == b"whole"
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_the_second_name_of_a_link_is_one_of_the_file(tmp_path):
    """Else a later file at the link's target would change both."""
    (tmp_path / "target").write_bytes(b"one")
    (tmp_path / "link").symlink_to("target")
    with atomic_path(tmp_path / "kept") as temporary:
        link_or_copy(tmp_path / "link", temporary)
    atomic_write(tmp_path / "link", b"two")
    assert (tmp_path / "kept").read_bytes() == b"one" and not (tmp_path / "kept").is_symlink()
