"""What several tests share: references, golden answers, published rows, running the tools."""
