"""Training of the lossy model: its encoder, export to integers and back."""
