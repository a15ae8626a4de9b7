"""Models that leave: files that run without this package."""
