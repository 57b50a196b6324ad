"""Pictures of the numbers in `jaxbox.analysis`.

Matplotlib and Pillow are needed: `pip install "jaxbox[plots]"`. Every function that draws returns a
new figure, to be saved with `figure.savefig(path)`, and leaves Matplotlib's global state alone.
Figures are 8 inches wide, which is 800 pixels at 100 dots per inch.

Boxes are drawn around a cross at their output pixel, with `y` downwards as in images. Around it a
dashed rectangle has the size `(h, w)` of the feature map, and a solid one, `[-w, w] x [-h, h]`, is
the limit of valid boxes. Boxes of signals are bars, one below the other, and those of volumes are
drawn from three sides.
"""

try:
    from jaxbox.plots.animation import animate_training
    from jaxbox.plots.boxes import draw_before_and_after, draw_layers, draw_training
    from jaxbox.plots.statistics import draw_areas, draw_energy, draw_histograms
except ImportError as error:
    raise ImportError(
        "jaxbox.plots needs Matplotlib and Pillow; install them with: pip install 'jaxbox[plots]'"
    ) from error

__all__ = [
    "animate_training",
    "draw_areas",
    "draw_before_and_after",
    "draw_energy",
    "draw_histograms",
    "draw_layers",
    "draw_training",
]
