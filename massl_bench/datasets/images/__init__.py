"""An image between its file and a network: preprocessing and crops."""
