"""Editing frame by frame: PIE, which simulates how a condition progresses (it does not predict a patient's future), and
any pipeline of diffusers that takes a picture."""

from vision.edit.confidence import ClassifierConfig, Confidence
from vision.edit.diffusers_editor import DiffusersEditor, DiffusersOptions
from vision.edit.editor import ProgressiveEditor
from vision.edit.options import PIEConfig, PIEOptions
from vision.edit.pie import PIEEditor
from vision.edit.progression import Progression

__all__ = [
    "ClassifierConfig",
    "Confidence",
    "DiffusersEditor",
    "DiffusersOptions",
    "PIEConfig",
    "PIEEditor",
    "PIEOptions",
    "Progression",
    "ProgressiveEditor",
]
