from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.long
@pytest.mark.parametrize("release", ["this", "another"])
def test_matplotlib_comes_without_the_lists_of_properties_and_sets_them_as_ever(release: str) -> None:
    code = f"""
    import sys
    from logreg.reports import fast_matplotlib
    if {release!r} == "another":
        fast_matplotlib.SIGNATURES = "a method that it lacks"
    fast_matplotlib.import_matplotlib()
    from matplotlib import artist
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    line = Line2D([], [])
    line.set(lw=3, color="red")
    assert (line.get_linewidth(), line.get_color()) == (3, "red")
    assert ("linewidth" in (Line2D.set.__doc__ or "")) == ({release!r} == "another")
    assert "linewidth" in artist.kwdoc(Line2D)
    try:
        line.set(width=3)
    except AttributeError:
        pass
    else:
        raise AssertionError("an unknown property was taken")
    class Own(artist.Artist):
        pass
    assert "alpha" in Own.set.__doc__  # classes that are made later have the lists
    figure = Figure()
    figure.subplots().plot([1, 2])
    figure.canvas.draw()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
