"""Files in folders are found without those that systems create, also behind links."""

from __future__ import annotations

from pathlib import Path

from logreg.data.formats.folders import SYSTEM_NAMES, files_with, is_hidden, walk_files


def test_hidden_files_and_files_of_the_system_are_not_listed(tmp_path: Path) -> None:
    hidden = [
        "@eaDir",
        ".thumbnails",
        "__MACOSX",
        "Thumbs.db",
        "thumbs.DB",
        "._1.jpg",
        ".ipynb_checkpoints",
        "desktop.ini",
    ]
    assert all(is_hidden(name) for name in hidden)
    assert not any(is_hidden(name) for name in ("a.b.jpg", "@home", "__a", "thumbnails", "Thumb", "#1"))
    assert all(name == name.lower() for name in SYSTEM_NAMES)
    for name in ("a/1.jpg", "a/@eaDir/1.jpg/THUMB.jpg", "a/b/.x/2.jpg", "__MACOSX/a/1.jpg", "a/b/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(name for name, _ in walk_files(tmp_path)) == ["a/1.jpg", "a/b/3.jpg"]


def test_links_are_followed_but_not_into_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "1.jpg").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "circle").symlink_to(tmp_path / "here")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    assert [name for name, _ in walk_files(tmp_path / "here")] == ["link/1.jpg"]


def test_files_with_a_suffix_are_in_order_of_their_folders(tmp_path: Path) -> None:
    for name in ("b.TXT", "a/2.txt", "a-1.txt", "a/1.txt", "a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_with(".txt", tmp_path) == ["a/1.txt", "a/2.txt", "a-1.txt", "b.TXT"]
