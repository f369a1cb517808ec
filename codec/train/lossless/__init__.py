"""Training of the lossless model: its networks, palettes, export to integers and back."""
