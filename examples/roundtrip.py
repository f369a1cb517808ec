"""The library in a dozen lines: one image, then a collection, there and back.

python examples/roundtrip.py
"""

from pathlib import Path

import numpy as np

import codec
from codec.files.images import read_image

paths = sorted(Path(__file__).parent.glob("images/digits/*.png"))
images = np.stack([read_image(path) for path in paths])  # uint8 (N, 28, 28)

for quality in (10, 50, 75, 99):
    stream = codec.compress(images[0], quality=quality)
    error = codec.decompress(stream).astype(int) - images[0]
    print(
        f"{paths[0].name} at quality {quality}: {len(stream)} bytes, off by "
        f"{np.sqrt(np.mean(error**2)):.1f} grey levels (RMS)"
    )

stream = codec.compress(images[0], lossless=True)
assert np.array_equal(codec.decompress(stream), images[0])
print(f"{paths[0].name} without loss: {len(stream)} bytes")

stream = codec.compress(images, quality=75, names=[path.name for path in paths])
with codec.open(stream) as collection:
    print(
        f"{len(collection)} images in {len(stream)} bytes; {collection.names[3]} alone has shape "
        f"{collection[3].shape}"
    )
    assert np.array_equal(collection[3], codec.decompress(stream)[3])
