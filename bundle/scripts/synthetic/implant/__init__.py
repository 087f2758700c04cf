"""Rib fractures implanted into real chest CT: any scan that shows ribs becomes training data."""

from scripts.synthetic.implant.dataset import generate_implanted
from scripts.synthetic.implant.scan import Implanted, ImplantedFracture, implant_fractures

__all__ = ["Implanted", "ImplantedFracture", "generate_implanted", "implant_fractures"]
