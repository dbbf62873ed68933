"""minirsa: feature transforms for video, from attention to relational self-attention, built step by step.

The package of the book "From Attention to Relational Self-Attention". Importing it is quick: torch and the
video decoders load with the submodule that needs them.
"""

__version__ = "0.1.0"
