"""Where the legend of a picture lies."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend


def assert_the_legend_is_below(figure: Figure) -> Legend:
    """The one legend is below all axes, where it covers no curve and no point, and inside the picture."""
    FigureCanvasAgg(figure).draw()
    assert not [axes for axes in figure.axes if axes.get_legend() is not None]
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    return legend
