"""Seeing images: the page of `aez view`, its server, and the contact sheet of a notebook.

    page.build(title, streams, models)      bytes of .aez files -> one HTML page that decodes them
    serve.serving(page, files)              the same for files that are too large to lie in a page
    contact.sheet(images)                   pixels -> a picture with a caption, as HTML

`web/` has the page and the decoder in JavaScript, `web/kernels.wasm` the kernels, and `wasm/` what
that is made from. README.md says how to use the decoder elsewhere. Nothing here reads a stream: the
commands, and whoever has images, hand over bytes and pixels.
"""
