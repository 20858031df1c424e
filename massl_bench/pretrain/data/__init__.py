"""What a step takes in: images cut into views."""
