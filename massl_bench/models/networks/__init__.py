"""Networks that no library has as their authors run them, and features of networks with tokens."""
