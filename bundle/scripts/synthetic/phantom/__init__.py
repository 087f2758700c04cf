"""Synthetic chest CT with rib fractures, in RibFrac's layout: no patient's data, and anyone can make it."""

from scripts.synthetic.phantom.dataset import generate_phantoms
from scripts.synthetic.phantom.default import ensure_phantoms
from scripts.synthetic.phantom.scan import Phantom, make_phantom

__all__ = ["Phantom", "ensure_phantoms", "generate_phantoms", "make_phantom"]
