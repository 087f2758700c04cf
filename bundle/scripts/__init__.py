"""What MONAI lacks for finding rib fractures in CT; every public class works by ``_target_`` in any MONAI config."""
