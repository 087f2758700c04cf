"""Pages to look at: what a run found, how a training goes, what a data set holds."""
