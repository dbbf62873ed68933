"""What the whole test suite needs before anything else is imported."""

import os

import matplotlib

from benchmarks.torchvision_operators import define_operators

# Pictures are drawn, never shown. Not by MPLBACKEND: the chapters' kernels would inherit it and show no figures.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("agg")

define_operators()
