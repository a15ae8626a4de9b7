"""Data that ships with the package: the embedded shapes dataset. Importing this imports nothing."""
