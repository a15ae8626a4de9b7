"""Statistics of learned clusters over a dataset: what they are, and what they tell about its labels.

:mod:`.measures` has the definitions, on plain arrays in float64; :mod:`.collect` runs networks over
images. docs/cluster-statistics.md says what they mean.
"""
