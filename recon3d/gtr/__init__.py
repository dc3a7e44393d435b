"""GTR: geometry and texture refinement of reconstructed objects (arXiv 2406.05649)."""
