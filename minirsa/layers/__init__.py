"""Feature transforms: one idea a file, plain modules and functions on `(B, C, T, H, W)` videos."""

from minirsa.layers.local import LocalSelfAttention
from minirsa.layers.relational import RelationalSelfAttention, relational_self_attention_loop

__all__ = ["LocalSelfAttention", "RelationalSelfAttention", "relational_self_attention_loop"]
