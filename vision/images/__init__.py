"""The border between pictures (files, PIL, arrays) and tensors."""

from vision.images.arrays import (
    ImageLike,
    blur,
    box_mean,
    composite,
    crop,
    is_grey,
    keep_grey,
    match_color,
    pad_to,
    pad_to_multiple,
    split_frequencies,
    to_grey,
    to_pil,
    to_tensor,
    to_uint8,
    to_uint16,
    to_y,
)
from vision.images.formats import LONGEST_SIDE, OPAQUE, SUFFIXES, format_of
from vision.images.frames import Frames, check_frames, load_frames, save_frames
from vision.images.loaded import BadImage, LoadedImage, from_pil
from vision.images.metadata import Metadata
from vision.images.read import (
    MAX_PIXELS,
    as_loaded,
    content_format,
    image_files,
    load_image,
    read_image,
)
from vision.images.transparency import enlarge_alpha
from vision.images.write import bits_of, check_format, left_out, save_bands, save_image

__all__ = [
    "LONGEST_SIDE",
    "MAX_PIXELS",
    "OPAQUE",
    "SUFFIXES",
    "BadImage",
    "Frames",
    "ImageLike",
    "LoadedImage",
    "Metadata",
    "as_loaded",
    "bits_of",
    "blur",
    "box_mean",
    "check_format",
    "check_frames",
    "composite",
    "content_format",
    "crop",
    "enlarge_alpha",
    "format_of",
    "from_pil",
    "image_files",
    "is_grey",
    "keep_grey",
    "left_out",
    "load_frames",
    "load_image",
    "match_color",
    "pad_to",
    "pad_to_multiple",
    "read_image",
    "save_bands",
    "save_frames",
    "save_image",
    "split_frequencies",
    "to_grey",
    "to_pil",
    "to_tensor",
    "to_uint8",
    "to_uint16",
    "to_y",
]
