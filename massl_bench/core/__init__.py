"""What every part stands on: errors, files, strict models, settings, the values that cross boundaries."""
