"""Tables in several files: what the names of their folders state."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pyarrow.fs
import pytest

from logreg.data.formats.find_shards import find_shards, first_file, folder_values
from logreg.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "found", "listed"),
    [
        ("*.csv", ["a.csv"], {"."}),
        ("year*", ["year=1/x.csv", "year=2/month=3/y.csv"], {".", "year=1", "year=2", "year=2/month=3"}),
        ("year*/*.csv", ["year=1/x.csv"], {".", "year=1", "year=2"}),
        ("*/month=[12345]/*", ["year=2/month=3/y.csv"], {".", "large", "year=1", "year=2", "year=2/month=3"}),
        ("year=2/**/*.csv", ["year=2/month=3/y.csv"], {"year=2", "year=2/month=3"}),
        ("large/*/*.csv", ["large/deep/z.csv"], {"large", "large/deep"}),
        ("**", ["a.csv", "large/deep/z.csv", "year=1/x.csv", "year=2/month=3/y.csv"], None),
        ("**/[xz].csv", ["large/deep/z.csv", "year=1/x.csv"], None),
    ],
)
def test_only_folders_that_a_pattern_leads_to_are_listed(
    pattern: str, found: list[str], listed: set[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beside them may hold millions of files."""
    for name in ("a.csv", "year=1/x.csv", "year=2/month=3/y.csv", "large/deep/z.csv", ".tool/t.csv", "_tool/t.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x,y\n")
    local, seen = pyarrow.fs.LocalFileSystem(), set()

    class Watched:
        """The local file system, which notes the folders that are listed."""

        type_name = local.type_name

        def get_file_info(self, wanted: str | pyarrow.fs.FileSelector) -> object:
            if isinstance(wanted, pyarrow.fs.FileSelector):
                assert PurePosixPath(wanted.base_dir).name not in (".tool", "_tool")
                seen.add(str(PurePosixPath(wanted.base_dir).relative_to(tmp_path)))
                if wanted.recursive:
                    inner = (one for one in Path(wanted.base_dir).rglob("*") if one.is_dir())
                    seen.update(str(one.relative_to(tmp_path)) for one in inner)
            return local.get_file_info(wanted)

    monkeypatch.setattr("logreg.data.formats.find_shards.file_system_of", lambda path, _: (Watched(), path))
    shards = find_shards(f"{tmp_path}/{pattern}", "dataset.path")
    assert [str(PurePosixPath(shard.path).relative_to(tmp_path)) for shard in shards.shards] == found
    assert listed is None or seen == listed


@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/**/*.csv", "/[!a]*/**"])
def test_links_are_followed_but_not_into_their_own_folder(pattern: str, tmp_path: Path) -> None:
    for name in ("here/a.csv", "there/b.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x,y\n")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "circle").symlink_to(tmp_path / "here")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "itself").symlink_to("itself")
    shards = find_shards(f"{tmp_path}/here{pattern}", "dataset.path")
    found = [shard.path.removeprefix(f"{tmp_path}/here/") for shard in shards.shards]
    assert found == (["link/b.csv"] if pattern.startswith("/[") else ["a.csv", "link/b.csv"])


def test_the_first_file_of_a_table_is_one_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".tool.csv", "_tool.csv", "_tool/a.csv", "Thumbs.db", "a.npy", "rows.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x,y\n")
    monkeypatch.chdir(tmp_path)
    for path in ("*.csv", "**", f"{tmp_path}", f"{tmp_path}/*", f"{tmp_path}/r?ws.csv"):
        first = first_file(path)
        assert first is not None
        assert PurePosixPath(first).relative_to(tmp_path if path.startswith("/") else ".") == PurePosixPath("rows.csv")
    assert first_file("*.npy") is None
    (tmp_path / "year=1").mkdir()
    (tmp_path / "year=1" / "a.csv").write_text("x,y\n")
    assert first_file("**") is None, "no file has the column year"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/a?b.csv", ["a-b.csv", "in/a-b.csv"]),
        ("*/?/*.csv", ["in/a/b.csv"]),
        ("**/a[!x]b.csv", ["a-b.csv", "in/a-b.csv"]),
        ("**/i*", ["in/a/b.csv", "in/a-b.csv"]),
        ("**/*/**", ["a/b.csv", "in/a/b.csv", "in/a-b.csv"]),
        ("**/in/**/b.csv", ["in/a/b.csv"]),
    ],
)
@pytest.mark.parametrize("kind", ["local", "gcs"])
def test_no_letter_of_a_pattern_stands_for_a_slash(
    kind: str, pattern: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-b.csv", "a/b.csv", "in/a-b.csv", "in/a/b.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x,y\n")
    local = pyarrow.fs.LocalFileSystem()
    system = SimpleNamespace(type_name=kind, get_file_info=local.get_file_info)
    monkeypatch.setattr("logreg.data.formats.find_shards.file_system_of", lambda path, _: (system, path))
    shards = find_shards(f"{tmp_path}/{pattern}", "dataset.path").shards
    assert [str(PurePosixPath(shard.path).relative_to(tmp_path)) for shard in shards] == found


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_name_that_has_the_letters_of_a_pattern_is_no_pattern(prefix: str, tmp_path: Path) -> None:
    for name in ("rows [1]/a.csv", "rows 1/b.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x,y\n")
    found = [
        [shard.path.removeprefix(f"{tmp_path}/") for shard in find_shards(f"{prefix}{tmp_path}/{name}", "key").shards]
        for name in ("rows [1]", "rows [1]/a.csv", "rows ?")
    ]
    assert found == [["rows [1]/a.csv"], ["rows [1]/a.csv"], ["rows 1/b.csv"]]


@pytest.mark.parametrize("path", ["", "/*", "/**", "/**/*", "/in*", "/?nner", "/inner", "/inner/", "/inner/[ab].*"])
def test_the_pattern_for_files_of_one_format_finds_some(path: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("inner/a.csv", "inner/b.tsv"):
        (tmp_path / name).write_text("x,y\n")
    with pytest.raises(DataError, match="must hold files of one format") as caught:
        find_shards(f"{tmp_path}{path}", "dataset.path")
    advised = str(caught.value).rpartition("such as ")[2].removesuffix(".")
    assert [PurePosixPath(shard.path).name for shard in find_shards(advised, "dataset.path").shards] == ["a.csv"]


def test_columns_that_some_folders_lack_have_one_order() -> None:
    names = [f"column{number}" for number in range(12)]
    paths = ["first=1/x.csv", "/".join(f"{name}=2" for name in names) + "/x.csv"]
    of_first, of_second = folder_values(paths)
    assert list(of_first) == ["first", *names]
    assert list(of_second) == [*names, "first"]
    assert set(of_first.values()) == {1, None}
