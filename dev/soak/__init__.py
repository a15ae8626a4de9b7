"""``make soak``: train, hurt, resume and compare."""
