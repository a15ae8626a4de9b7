"""Pictures of the clusters of a model: sheets, a page to click on, a hook for trainings."""
