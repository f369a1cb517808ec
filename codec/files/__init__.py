"""Files, and nothing about streams.

    with place("digits.npy").open() as file:            # a path, a URL or a standard stream
        pixels = read_array(file)                       # or read_image: exact, nothing is converted
    with place("digits.aez").replace() as file:         # appears whole or not at all
        file.write(stream)

    with open_source(path) as source:                   # many images in one file, never all at once
        for pixels, contents, names, labels in source.batches(4096): ...

- `images`, `damage`: image files, and what is wrong with them that Pillow overlooks.
- `sources`: files of many images: `arrays` (NPY, NPZ, IDX), `tables` (CSV), `parquet`, `archives`
  (ZIP, TAR). `batch` is what they have in common, `columns` tells which column is what.
- `labels`: files of labels. `kinds`: what a file is by its name. `names`: which names are safe.
  `foreign`: what a file is that is not taken.
- `place`: where bytes come from and go to; it uses `atomic` (local files that appear whole) and
  `urls` (by fsspec).
"""
