"""What codes an image: the model that is chosen for it, and the quality that meets what was asked
for.
"""
