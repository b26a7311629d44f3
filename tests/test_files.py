import errno
import os
import stat

import pytest

from ddlib.files import check_writable, read_json, write_atomically


def test_writes_the_bytes_and_makes_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / "set.bin"
    write_atomically(path, b"\x00\xff\n")
    assert path.read_bytes() == b"\x00\xff\n"
    assert os.listdir(path.parent) == ["set.bin"]


def test_replaces_what_was_there(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(b"old and longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["set.bin"]


def test_others_may_read_the_file(tmp_path):
    write_atomically(tmp_path / "set.bin", b"x")
    assert stat.S_IMODE((tmp_path / "set.bin").stat().st_mode) == 0o644


def test_takes_a_path_as_text(tmp_path):
    write_atomically(str(tmp_path / "set.bin"), b"x")
    assert (tmp_path / "set.bin").read_bytes() == b"x"


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "set.bin"
    path.write_bytes(b"old")
    seen = []
    replace = os.replace

    def look_then_replace(source, target):
        with open(source, "rb") as file:
            seen.append((path.read_bytes(), file.read()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    write_atomically(path, b"new")
    assert seen == [(b"old", b"new")]  # all is written before the name changes hands


def test_a_loss_of_power_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    """The disk keeps the content before the name points at it, and the name before it is said."""
    events, sync, replace = [], os.fsync, os.replace

    def note_sync(file):
        seen = os.fstat(file)
        events.append("folder" if stat.S_ISDIR(seen.st_mode) else seen.st_size)
        sync(file)

    def note_replace(*paths):
        events.append("name")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "set.bin", b"new")
    assert events == [3, "name", "folder"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"done": 1}'])
def test_json_that_is_not_whole_is_named(tmp_path, content):
    path = tmp_path / "progress.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is not whole \(.*\); delete it, and run again"):
        read_json(path, names=("done", "total"))


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "set.bin"
    path.write_bytes(b"old")

    def fail(source, target):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["set.bin"]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"cannot write to the folder .*results.*choose another"):
        write_atomically(tmp_path / "results" / "set.bin", b"x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / "set.bin"
    path.write_bytes(b"old")

    def fail(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=f"the disk that holds {tmp_path} is full; make room and run"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["set.bin"]


def test_a_folder_that_takes_a_few_kilobytes_is_made_and_left_empty(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.fstat(file).st_size) or sync(file)
    )
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    [size] = synced
    assert size >= 4096


def test_a_disk_that_is_full_only_once_it_is_asked_to_keep_is_said(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"the disk that holds {tmp_path} is full; make room and run"):
        check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_unreadable_file_of_json_is_named_and_not_taken_for_absent(tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(b"")  # as a loss of power leaves it
    with pytest.raises(ValueError, match=rf"^{path} is not whole \(.*\); delete it"):
        read_json(path)
