"""What the engine costs, measured. Each module is a script."""
