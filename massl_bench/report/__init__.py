"""What people look at: pages that are one file each, and comparisons of models."""
