"""Speed, as ratios within one run. Not part of the tests; run by ``make bench``."""
