"""Textured 3D objects from posed pictures, refined in geometry and texture through a differentiable renderer."""

from recon3d.cameras import Cameras, gtr_rig, orbit, turntable
from recon3d.gtr.options import GTRConfig, GTROptions
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.gtr.result import Reconstruction
from recon3d.isosurface import extract_surface
from recon3d.mesh import Mesh
from recon3d.mesh_files import load_mesh, save_mesh
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import load_views, save_views, views_from_grid
from recon3d.views import Views, split_grid

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
    "load_mesh",
    "load_views",
    "orbit",
    "render",
    "save_mesh",
    "save_views",
    "split_grid",
    "turntable",
    "vase",
    "views_from_grid",
]
