"""handgrad beside its peers: interleaved measurements in one run, as ratios."""
