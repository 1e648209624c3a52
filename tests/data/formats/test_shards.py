"""Tables in several files: what the names of their folders state."""

from __future__ import annotations

from logreg.data.formats.find_shards import folder_values


def test_columns_that_some_folders_lack_have_one_order() -> None:
    names = [f"column{number}" for number in range(12)]
    paths = ["first=1/x.csv", "/".join(f"{name}=2" for name in names) + "/x.csv"]
    of_first, of_second = folder_values(paths)
    assert list(of_first) == ["first", *names]
    assert list(of_second) == [*names, "first"]
    assert set(of_first.values()) == {1, None}
