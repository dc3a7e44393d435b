"""`python -m burnish`."""

from .main import start

start()
