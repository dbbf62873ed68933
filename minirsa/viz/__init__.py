"""Figures, animations and interactive explorers. Everything here takes arrays, never models.

Book: every chapter; the alignment map is at home in chapter 1, the attention explorer in chapter 2, the kernel
explorer in chapter 13.
"""

from minirsa.viz.alignment import AlignmentExample, AlignmentMap, alignment
from minirsa.viz.animation import kernel_animation
from minirsa.viz.architecture import encoder_decoder
from minirsa.viz.attention import AttentionExplorer
from minirsa.viz.clips import clip_strip
from minirsa.viz.dual import DualFigure
from minirsa.viz.explorer import KernelExplorer
from minirsa.viz.maps import attention_map, kernel_maps
from minirsa.viz.style import DIVERGING, PAGE_WIDTH, PALETTE, PALETTE_DARK, SEQUENTIAL, use_style

__all__ = [
    "DIVERGING",
    "PAGE_WIDTH",
    "PALETTE",
    "PALETTE_DARK",
    "SEQUENTIAL",
    "AlignmentExample",
    "AlignmentMap",
    "AttentionExplorer",
    "DualFigure",
    "KernelExplorer",
    "alignment",
    "attention_map",
    "clip_strip",
    "encoder_decoder",
    "kernel_animation",
    "kernel_maps",
    "use_style",
]
