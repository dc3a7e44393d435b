"""Measure a system.

    burnish evaluate iter --hr photos --degradation bicubic --variant clean --out runs/clean
    burnish evaluate iter --hr photos --degradation blind --out runs/blind --pictures
    burnish evaluate pasd --hr photos --degradation blind --out runs/pasd
    burnish evaluate text --out runs/text
    burnish evaluate selector --choices runs/restorers --out runs/selector
    burnish evaluate judge --choices runs/known --photos photos --out runs/judge
    burnish evaluate sharpened --hr photos --source runs/iter-sharpened/weights --out runs/sharpened
    burnish evaluate pie --volumes FOLDER --out runs/pie
    burnish evaluate gtr --meshes MESHES --out runs/meshes
    burnish evaluate r1 --benchmark vl_rewardbench --rows data.jsonl --source org/name --out runs/vl
    burnish evaluate verifier --out runs/verifier
    burnish evaluate scl --rows questions.jsonl --sources base=org/name learnt=runs/scl/weights --out runs/scl

The first word is the system; the rest are its options.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("evaluate")
from . import dispatch
from .dispatch import Work

SYSTEMS = {
    "iter": Work("restoration.iter.evaluate", "ITEREvaluation", "restorations, beside Real-ESRGAN"),
    "pasd": Work("restoration.pasd.evaluate", "PASDEvaluation", "restorations, beside Real-ESRGAN"),
    "text": Work("restoration.evaluate_text", "TextEvaluation", "letters that survive a restoration, read by an OCR"),
    "selector": Work("restoration.evaluate_selection", "SelectorEvaluation", "what --system auto decides"),
    "judge": Work(
        "restoration.evaluate_judge", "JudgeEvaluation", "the judge of restorations, beside other evaluators"
    ),
    "sharpened": Work(
        "restoration.iter.evaluate_sharpened", "SharpenedEvaluation", "one sample of ITER after sharpening"
    ),
    "pie": Work(
        "vision.edit.evaluate",
        "PIEEvaluation",
        "progressions of a held-out brain, beside two baselines",
        "vision/pretrained/pie-brain-mini/pie/config.json",
    ),
    "gtr": Work("recon3d.gtr.evaluate", "GTREvaluation", "rebuilt or refined meshes"),
    "r1": Work("reward_vlm.r1.evaluate", "R1Evaluation", "a judge of answers, on benchmarks or scenes"),
    "r1-restorations": Work(".evaluate_pictures", "PictureEvaluation", "the judge of restorations"),
    "verifier": Work("reward_vlm.scl.evaluate_verifier", "VerifierEvaluation", "a model's word about its own answers"),
    "scl": Work("reward_vlm.scl.evaluate", "SCLEvaluation", "answers before and after review"),
}
"""System -> what measures it."""
parse, call = dispatch.command("evaluate", "to measure", __doc__ or "", SYSTEMS)
"""The system's module and its options, from the command line; and the command."""
