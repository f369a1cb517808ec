"""Run in a subprocess by test_golden.py: decode all goldens, print name and sha256 of the pixels of
each.

    python tests/decode_golden.py CORE_IMAGES      (images that the network takes at a time)
"""

import hashlib
import json
import sys
from pathlib import Path

import codec.model.ladder
import codec.model.pixels
from codec import api

codec.model.ladder.CORE_IMAGES = codec.model.pixels.BATCH_IMAGES = int(sys.argv[1])
golden = Path(__file__).resolve().parent / "golden"
for name in json.loads((golden / "golden.json").read_text()):
    print(name, hashlib.sha256(api.decompress((golden / name).read_bytes()).tobytes()).hexdigest())
