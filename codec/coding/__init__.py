"""Symbols <-> bytes: rANS, many lanes at once, and images that share a coder state."""
