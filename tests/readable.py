"""Whether the texts of a figure can be read: where they are drawn, by the renderer."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg


def texts(figure):
    """All texts that are drawn, with their boxes in pixels."""
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, *(axes.get_legend().get_texts() if axes.get_legend() else ())]
        found += [axes.title, axes._left_title, axes._right_title]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            ticks = [tick for tick in axis.get_major_ticks() if low - margin <= tick.get_loc() <= high + margin]
            found += [axis.label, *(tick.label1 for tick in ticks)]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found if text.get_text().strip()]


def unreadable(figure):
    """Pairs of texts that overlap, and texts that are not wholly inside the figure."""
    drawn = texts(figure)
    found = []
    for (one, a), (other, b) in itertools.combinations(drawn, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if width > 0.5 and height > 0.5:
            found.append((one, other))
    right, top = figure.bbox.x1 + 0.5, figure.bbox.y1 + 0.5
    return found + [text for text, box in drawn if min(box.x0, box.y0) < -0.5 or box.x1 > right or box.y1 > top]
