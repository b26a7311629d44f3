import errno
import os
import stat

import pytest

from ddlib.files import check_writable, from_root, read_json, write_atomically


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_is_written_whole_in_new_folders_for_others_to_read(tmp_path, kind):
    path = tmp_path / "a" / "b" / "set.bin"
    for content in (b"old and longer", b"\x00\xff\n"):
        write_atomically(kind(path), content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["set.bin"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_content_is_on_the_disk_before_the_name_points_at_it(tmp_path, monkeypatch):
    """So neither a reader nor a loss of power finds half a file."""
    path, events, sync, replace = tmp_path / "set.bin", [], os.fsync, os.replace
    path.write_bytes(b"old")

    def note_sync(file):
        events.append(os.fstat(file).st_size)
        sync(file)

    def note_replace(source, target):
        with open(source, "rb") as file:
            events.append((path.read_bytes(), file.read()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(path, b"newer")
    assert events == [5, (b"old", b"newer")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt("stop"), "stop"),
        (OSError("one sentence"), "one sentence"),
        (OSError(errno.ENOSPC, "full"), "the disk that holds {} is full; make room and run"),
        (OSError(errno.EROFS, "read-only"), r"cannot write to the folder {} \(read-only\); choose"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, error, message):
    path = tmp_path / "set.bin"
    path.write_bytes(b"old")

    def fail(source, target):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error), match=message.format(tmp_path)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["set.bin"]


def test_a_folder_is_tried_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("a file where a folder should be")
    for act in (check_writable, lambda folder: write_atomically(folder / "set.bin", b"x")):
        with pytest.raises(OSError, match=r"cannot write to the folder .*file.*choose another"):
            act(tmp_path / "file")

    def fail(file):  # a full disk takes the file, and not what it holds
        assert os.fstat(file).st_size >= 4096
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"the disk that holds {tmp_path} is full; make room and run"):
        check_writable(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"done": 1}'])
def test_json_that_is_not_whole_is_named(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is not whole \(.*\); delete it, and run again"):
        read_json(path, names=("done", "total"))


def test_a_path_from_home_is_no_folder_of_the_project(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_root("~/results") == tmp_path / "results"
