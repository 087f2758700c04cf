"""What is measured of a fracture besides its place: displacement, type, and what follows for the chest as a whole."""

from .rib_score import ChestFacts, chest_facts

__all__ = ["ChestFacts", "chest_facts"]
