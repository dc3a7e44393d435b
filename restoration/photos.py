"""The photographs of the small default weights, by the name that recipes import them under; see `vision.photos`."""

from vision.photos import HELD_OUT_PHOTOS, TRAINING_PHOTOS, collect_photos, open_photo

__all__ = ["HELD_OUT_PHOTOS", "TRAINING_PHOTOS", "collect_photos", "open_photo"]
