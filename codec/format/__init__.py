"""The bytes of a stream, as FORMAT.md says; nothing is decoded here.

    header, at = unpack_image_header(stream)      # a single image: 6 bytes, then the payload
    at = unpack_collection_header(stream)         # a collection: header, blocks, footer
    header = unpack_block_header(stream[at:])     # a block: header, labels, names, index, payload
    labels = unpack_labels(...)                   # one for each image, or none at all
    names = unpack_names(...)                     # the same
    index = Index(*unpack_index(...))             # the images of each group, and its message
    footer = unpack_footer(...)                   # bytes and images of each block

constants -> primitives (checks, numbers) -> headers -> footer; rice -> index; names -> labels;
block.
"""
