"""Files, and nothing about streams.

    with place("digits.npy").open() as file:            # a path, a URL or a standard stream
        pixels = read_array(file)                       # or read_image: exact, nothing is converted
    with place("digits.aez").replace() as file:         # appears whole or not at all
        file.write(stream)

`images`: image and array files <-> uint8 arrays. `names`: which names are safe. `place`: where
bytes come from and go to; it uses `atomic` (local files that appear whole) and `urls` (by fsspec).
"""
