"""Pure functions of arrays: numpy in, numbers out."""
