"""The encoder: images and options -> streams and blocks.

    encoder = Encoder(Options.of(quality=75))       # encode, options: checked once
    draft = Draft.blank(pixels, encoder.models)     # draft: N images, column by column
    seen = choose(draft, quality)                   # choose: the cheapest coder for each image
    code(draft, quality, effort, seen)              #   symbols, all at one quality
    guard(draft, quality, effort, exact)            #   what came out badly falls back
    parts = pack(draft)                             # draft: images of one coder and quality
    block = pack_block(parts, names, labels)        # or each image as a stream of its own

With a goal (`goal`: a limit of bytes, or of dB), `meet` replaces `code` and `guard`: it gives each
image the quality that keeps the goal (`search`). `writer` collects images for the blocks of a
collection; `stats` counts what was done.
"""
