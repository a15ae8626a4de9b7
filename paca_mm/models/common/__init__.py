"""What any backbone of this package needs, whatever its family."""
