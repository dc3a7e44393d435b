"""Results made better step by step: the public names of all systems, loaded when they are asked for.

from burnish import ITERRestorer
"""

from vision.lazy import attach

__all__, __getattr__, __dir__ = attach(
    __name__,
    {
        "restoration.data": "DegradedImages PairedImages",
        "restoration.degradation": "degrade",
        "restoration.iter": "ITERConfig ITEROptions ITERRestorer",
        "restoration.one_step": "OneStepConfig OneStepOptions OneStepRestorer",
        "restoration.pasd": "PASDConfig PASDOptions PASDRestorer",
        "vision.edit": "DiffusersEditor DiffusersOptions PIEConfig PIEEditor PIEOptions",
        "recon3d": "Cameras GTRConfig GTROptions GTRReconstructor Mesh Views extract_surface load_mesh orbit render "
        "save_mesh split_grid",
        "reward_vlm": "ChatModel Dialogue R1Config R1Judge R1Options SCLConfig SCLCorrector SCLOptions",
        "vision.refine": "Refined Step Trace Verdict any_of checkpoints max_seconds no_progress previews reaches "
        "refine refine_steps",
        "vision.images": "composite load_image match_color to_pil to_tensor",
        "vision.metrics": "lpips psnr ssim",
        "vision.tiles": "Tiles",
    },
)
