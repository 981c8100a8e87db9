"""What the Makefile calls: install, test, execute notebooks. Nothing here is imported by a chapter."""
