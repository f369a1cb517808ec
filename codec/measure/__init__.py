"""How good the codec is: rate, distortion and speed, of aez and of others.

    pixels = inputs.read(...)                 # what `aez compress` would read, or a sample of it
    for codec in codecs.others(pixels) + codecs.aez(...):
        files = codec.encode(pixels)          # timed (`timing`), and so is codec.decode(files)
        rows.append(bytes, PSNR, SSIM, speed of these files)
    points.bd_rate_percent(...)               # bytes at equal PSNR, between the measured points
    page.html(rows, ...)                      # tables, plots (`plot`), worst images

That is `bench`, behind `aez bench`. Three tools beside it measure aez alone, and write the JSON
files that the README quotes: `curve` (rate and distortion of one model), `speed` with `waits`
(what people wait for), `reading` (files and random access). `tool` is their command line.
"""
