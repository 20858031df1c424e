"""The launchers, one module each, found by name."""
