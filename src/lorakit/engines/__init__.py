"""What runs a base and applies adapters: the protocol, and one folder per engine."""
