"""Progressive image editing (PIE): simulate how a condition progresses. It does not predict a patient's future."""

from vision.edit.confidence import ClassifierConfig, Confidence
from vision.edit.options import PIEConfig, PIEOptions
from vision.edit.pie import PIEEditor
from vision.edit.progression import Progression

__all__ = ["ClassifierConfig", "Confidence", "PIEConfig", "PIEEditor", "PIEOptions", "Progression"]
