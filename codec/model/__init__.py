"""Models: what turns images into messages, and messages into images.

    coder = registry.by_name("mnist")           # registry: which models there are, and where
    symbols = coder.analyze(pixels, quality)    # base: what every coder can do
    messages = coder.pack(symbols, group)
    pixels, damaged = coder.decode(messages, len(pixels), quality, group=group)

The coders are `ladder` (lossy), `pixels` (lossless), and `stored`, which needs no model. The other
two are made from a model file (`bundle`, `card`), whose layers are exact integers (`layers`).
Modules named `ladder_...` and `pixels_...` belong to that coder; `*_native` and `native_layers` use
the kernels, for the same bytes.
"""
