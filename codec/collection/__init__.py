"""Reading streams: blocks, random access, names, and what can be saved of a damaged one.

    with open_stream(source) as stream:      # a path, URL, bytes or file -> Collection, SingleImage
        stream.pixels()                      # everything, or an error
        stream[17]                           # one image: index of its block, message of its group
        for decoded in stream.salvage():     # everything that is intact, and what is not
            ...

    Block.decode(groups), Block.salvage()    # the one way from the bytes of a block to pixels:
        for each part of the block, the messages of its groups -> model.decode

source (random reads) -> models (which model) -> block -> salvage (finding blocks) -> reader
(Collection); single (one image); open (which of the two); writer (blocks -> a collection).
"""
