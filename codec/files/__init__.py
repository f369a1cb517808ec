"""What lies outside of streams: image and array files, URLs, and files that appear whole or not at
all.
"""
