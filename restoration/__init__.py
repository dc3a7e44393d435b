"""Image restoration: degradations to train and measure with, and the systems that undo them."""

from vision.lazy import attach

__all__, __getattr__, __dir__ = attach(
    __name__,
    {
        "restoration.data": "DegradedImages PairedImages",
        "restoration.degradation": "Draws degrade",
        "restoration.iter": "ITERConfig ITEROptions ITERRestorer",
        "restoration.one_step": "OneStepConfig OneStepOptions OneStepRestorer",
        "restoration.pasd": "PASDConfig PASDOptions PASDRestorer",
        "restoration.recipes": "RECIPES recipe",
    },
)
