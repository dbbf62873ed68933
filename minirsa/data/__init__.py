"""Video as data: decoding, sampling, augmentation, data sets and the synthetic motion set; Part I's translation task.

Names load on first use, so that importing this package starts neither torch nor a video decoder.

Book: chapter 7; chapter 16 (data sets); chapter 1 (translation).
"""

from importlib import import_module

_HOME = {
    "VideoReadError": "video",
    "clip_length": "video",
    "read_clip": "video",
    "write_clip": "video",
    "dense_indices": "sampling",
    "segment_indices": "sampling",
    "CenterCrop": "transforms",
    "Compose": "transforms",
    "Flip": "transforms",
    "MultiScaleCrop": "transforms",
    "Normalize": "transforms",
    "Resize": "transforms",
    "mirror_labels": "transforms",
    "reversed_labels": "transforms",
    "to_tensor": "transforms",
    "LABELS": "motion",
    "MotionConfig": "motion",
    "MotionSet": "motion",
    "reverse": "motion",
    "reverse_label": "motion",
    "DateSet": "translation",
    "Batch": "datasets",
    "ClipDataset": "datasets",
    "MotionDataset": "datasets",
    "Sample": "datasets",
    "collate": "datasets",
    "Entry": "readers",
    "Split": "readers",
    "open_split": "readers",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
