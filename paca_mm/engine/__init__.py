"""What the Runner needs around it: checks before the work, safe saving, and the command lines."""
