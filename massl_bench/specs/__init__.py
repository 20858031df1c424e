"""What the registry holds: tasks, datasets, suites and manifests, read from TOML, here and in plugins."""
