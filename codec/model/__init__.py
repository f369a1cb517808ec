"""Models: what turns images into messages, and messages into images.

    coder = registry.by_name("mnist")           # registry: which models there are, and where
    symbols = coder.analyze(pixels, quality)    # base: what every coder can do
    messages = coder.pack(symbols, group)
    pixels, damaged = coder.decode(messages, len(pixels), quality, group=group)

The coders are `ladder`, lossy, `pixels`, lossless, and `stored`, which needs no model. The others
are made of a model file (`bundle`, `card`), whose layers are exact integers (`layers`). What begins
with `ladder_` or `pixels_` belongs to that coder; `*_native` and `native_layers` hand the work to
the kernels, for the same bytes.
"""
