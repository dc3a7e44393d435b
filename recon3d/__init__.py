"""Textured 3D objects from posed pictures, refined in geometry and texture through a differentiable renderer."""
