"""Feature transforms: one idea a file, on `(B, n, C)` sequences and `(B, C, T, H, W)` videos."""

from minirsa.layers.attention import (
    KeyValueCache,
    MultiHeadAttention,
    RestrictedSelfAttention,
    causal_mask,
    masked_softmax,
    padding_mask,
    restricted_attention,
    scaled_dot_product_attention,
    window_mask,
)
from minirsa.layers.local import LocalSelfAttention
from minirsa.layers.luong import LocalAttention, LuongAttention
from minirsa.layers.positions import LearnedPositions, SinusoidalPositions, sinusoidal_positions
from minirsa.layers.relational import RelationalSelfAttention, relational_self_attention_loop
from minirsa.layers.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward

__all__ = [
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "KeyValueCache",
    "LearnedPositions",
    "LocalAttention",
    "LocalSelfAttention",
    "LuongAttention",
    "MultiHeadAttention",
    "RelationalSelfAttention",
    "RestrictedSelfAttention",
    "SinusoidalPositions",
    "causal_mask",
    "masked_softmax",
    "padding_mask",
    "relational_self_attention_loop",
    "restricted_attention",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "window_mask",
]
