"""Textured 3D objects from posed pictures, refined in geometry and texture through a differentiable renderer."""

from recon3d.cameras import Cameras, gtr_rig, orbit, turntable
from recon3d.gtr.reconstructor import GTRConfig, GTROptions, GTRReconstructor, Reconstruction
from recon3d.isosurface import extract_surface
from recon3d.mesh import Mesh, vase
from recon3d.views import Views, load_views, render, save_views, split_grid, views_from_grid

__all__ = [
    "Cameras",
    "GTRConfig",
    "GTROptions",
    "GTRReconstructor",
    "Mesh",
    "Reconstruction",
    "Views",
    "extract_surface",
    "gtr_rig",
    "load_views",
    "orbit",
    "render",
    "save_views",
    "split_grid",
    "turntable",
    "vase",
    "views_from_grid",
]
