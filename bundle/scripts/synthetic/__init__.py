"""Synthetic fractures: in phantoms, and implanted into real chest CT."""
