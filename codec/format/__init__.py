"""What lies in a stream: headers, the index of a block, names; byte for byte as FORMAT.md says."""
