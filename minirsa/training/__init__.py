"""Training: the recipe as plain data, and the loop that follows it.

`minirsa.training.images` is for Part II, `minirsa.training.translation` for Part I.
"""

from minirsa.training.loop import Recipe, accuracy, fit, motion_batches, predict_scores

__all__ = ["Recipe", "accuracy", "fit", "motion_batches", "predict_scores"]
