"""Reading streams: blocks, random access, names, labels, and salvage of damaged ones.

    with open_stream(source) as stream:      # a path, URL, bytes or file -> Collection, SingleImage
        stream.pixels()                      # everything, or an error
        stream[17]                           # one image: index of its block, message of its group
        for decoded in stream.salvage():     # everything that is intact, and what is not
            ...

    Block.decode(groups), Block.salvage()    # the bytes of a block -> pixels: for each part,
                                             # the messages of its groups -> model.decode

source (random reads) -> models (which model) -> block -> salvage (finding blocks) -> memory (what
is kept) -> reader (Collection); single (one image); open (which of the two); listing (what images
are, without pixels); writer (blocks -> a collection).
"""
