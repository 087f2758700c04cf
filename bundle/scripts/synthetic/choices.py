"""What can be chosen of a synthetic scan, and how scans are called."""

__all__ = ["IMPLANTED_NAMES", "RIBFRAC_NAMES", "SIZES", "SYNTHETIC_NAMES", "TRAITS"]

# Of scans by their number: nobody should take one for RibFrac's scan of that number. The benchmark's keep RibFrac's
SYNTHETIC_NAMES = "synthetic-{:04d}"
IMPLANTED_NAMES = "implanted-{:04d}"
RIBFRAC_NAMES = "RibFrac{}"

SIZES = ("full", "slab")
TRAITS = {
    "scoliosis": "the spine swings 15-30 mm sideways, in an S or a C, and the ribs with it",
    "osteopenia": "bone has 0.35-0.5 of a young adult's HU, and a thin cortex",
    "contrast": "blood of 250-400 HU",
    "effusion": "fluid in the back 20-60 % of one or both pleural spaces, up to the ribs",
    "consolidation": "a lobe without air, up to the ribs",
    "arms_down": "both arms beside the chest, in the field of view",
    "metal": "rods and screws in the spine, a pacemaker or leads on the skin, with streaks",
    "displaced": "further fractures: displaced, overlapping or gaping ones of 3-6 neighboring ribs",
    "crowded": "9 to 36 fractures, median 14, in runs over neighboring ribs",
    "bridged": "one or two bridges of bone between neighboring ribs",
    "bifid": "one rib of 3-5 forks in front",
    "cervical": "a rib of 20-50 mm at C7 on one side or both",
    "lumbar": "a rib of 15-40 mm at L1 on one side or both",
    "cut_top": "the scan begins at rib 3-6",
    "cut_bottom": "the scan ends at rib 9-11",
    "cut_side": "the field of view cuts the ribs on both sides",
    "thick": "slices of 4-5 mm",
    "noise": "a sharp kernel and 2-3 times the noise",
    "child": "0.55-0.75 of an adult's size",
    "joints": "worn joints of rib heads and tubercles: a dark gap, dense rims, spurs",
    "cupped": "hollow front ends of ribs, and a calcified rim of the cartilage",
    "streaks": "streaks of 30-90 HU between the shoulders",
    "breathing": "the front of the chest moves by 2-6 mm between slabs of the scan",
    "soft": "a soft kernel, as of a PET-CT: 0.9-1.3 mm of blur, and half of the noise",
}
