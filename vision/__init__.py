"""Images, tiles, metrics, pretrained folders and the refinement core that every system of this project shares."""
