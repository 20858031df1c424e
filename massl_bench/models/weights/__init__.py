"""Weights as files: manifests and models known by them, downloads, inspection, exports and what these say."""
