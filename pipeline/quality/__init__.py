"""Published quality rules, one file each, the statistics they measure, and how thresholds become decisions."""
