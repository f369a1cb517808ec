"""The second half of minimal_decoder.py: models and messages, FORMAT.md 5 to 8.

A message is decoded by a `Group` of images and the tensors of a model, which `find_model` reads and
checks. All in plain int64, as (images, channels, positions). Numbers such as (5.1) are sections of
FORMAT.md.
"""

import json
import sys
import zlib
from bisect import bisect_right
from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np

# Neighbours of a pixel, as rows and columns relative to it (8.2).
NEAR_ROWS = np.array([0, -1, -1, -1, 0, -2, -1, -2, -2, -1, 0, -3])
NEAR_COLUMNS = np.array([-1, 0, -1, 1, -2, 0, 2, 1, -1, -2, -3, 0])
Tensors = dict[str, np.ndarray]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# Stored images


def unzstd(frame: bytes, least: int, most: int, alone: bool = True) -> bytes:
    """The content of a zstd frame that states a size of least .. most."""
    if sys.version_info >= (3, 14):  # only names, labels and stored images need it
        from compression import zstd
    else:
        from backports import zstd
    try:
        size = zstd.get_frame_info(frame).decompressed_size
        fits = size is not None and least <= size <= most
        require(fits, "a zstd frame does not state a size within the limits")
        widest = zstd.DecompressionParameter.window_log_max
        reader = zstd.ZstdDecompressor(options={widest: widest.bounds()[1]})
        content = reader.decompress(frame, size + 1)
    except zstd.ZstdError as error:
        raise ValueError(f"a zstd frame does not decompress: {error}") from error
    require(reader.eof and len(content) == size, "a zstd frame is cut")
    require(not (alone and reader.unused_data), "bytes follow a zstd frame")
    return content


def unstored(data: bytes) -> np.ndarray:
    """Stored bytes -> the image (2.3)."""
    require(len(data) <= 784, "a stored image is too long")
    data = data if len(data) == 784 else unzstd(data, 784, 784)
    return np.frombuffer(data, np.uint8).reshape(28, 28)


# Messages


def scale(s: np.ndarray, m: np.ndarray, bits: int) -> np.ndarray:
    """s * m / 2**bits, rounded to float32, then to a whole number (6.1); both factors are exact in
    float32.
    """
    return np.rint(np.float32(s) * np.float32(m * 2.0**-bits)).astype(np.int64)


class Group:
    """`count` images that share a message (5) and go through a network (6, 8)."""

    def __init__(self, model: Tensors, quality: int, count: int, message: bytes) -> None:
        self.model, self.quality, self.count, self.message = model, quality, count, message
        self.at = self.state = 0  # of the coder

    def decode(self) -> np.ndarray:
        """The images, uint8 (count, 28, 28), once the final state has shown that they are right
        (5.2).
        """
        lossless = "head.weight" in self.model
        require(lossless == (self.quality >= 100), "the model does not have this quality")
        pixels = self.lossless() if lossless else self.lossy()
        self.refill()
        right = self.at == len(self.message) and self.state == zlib.crc32(pixels.tobytes()) & 0xFF
        require(right, "the final state of a message differs")
        return pixels

    # The coder

    def refill(self) -> None:
        """Take bytes into the state, also the first ones; a message that has run out still decodes
        to something (5.1).
        """
        while self.state < 1 << 23 and self.at < len(self.message):
            self.state = self.state << 8 | self.message[self.at]
            self.at += 1

    def choose(self, table: list[int]) -> int:
        """decode(t) of 5.1."""
        self.refill()
        slot = self.state & 0xFFFF
        c = bisect_right(table, slot) - 1  # table[c] <= slot < table[c + 1]
        self.state = (table[c + 1] - table[c]) * (self.state >> 16) + slot - table[c]
        return c

    def byte(self) -> int:
        return self.choose(list(range(0, 65537, 256)))

    # Layers of both networks

    def table(self, name: str) -> np.ndarray:
        """The row of a table for this quality, on the line between its neighbours (6.2), as
        (channels, 1).
        """
        table, (r, rest) = self.model[name], divmod(min(self.quality, 100), 3)
        if len(table) > 1:
            table = (2 * (table[r] * (3 - rest) + table[min(r + 1, 33)] * rest) + 3) // 6
        return table.reshape(-1, 1)

    def layer(self, name: str, x: np.ndarray, low: int = -1023, high: int = 1023) -> np.ndarray:
        """Any layer of 6.3; the weight's shape tells its kind.

        A dense layer is a point layer with a single position.
        """
        weight, bias = self.model[name + ".weight"], self.model[name + ".bias"]
        if weight.ndim == 2:
            total = np.einsum("oc,ncp->nop", weight, x)  # in int64
        else:  # conv: nine point layers, each on the grid moved by a step, with zeros around it
            grid = np.pad(x.reshape(*x.shape[:2], 7, 7), ((0, 0), (0, 0), (1, 1), (1, 1)))
            total = np.int64(0)
            for v, u in np.ndindex(3, 3):
                moved = grid[:, :, v : v + 7, u : u + 7].reshape(x.shape)
                total = total + np.einsum("oc,ncp->nop", weight[:, :, v, u], moved)
        total = total + bias.reshape(len(bias), -1) + self.table(name + ".shift")
        return np.clip(scale(total, self.table(name + ".multiplier"), 24), low, high)

    # The lossy network

    def lossy(self) -> np.ndarray:
        """The synthesis of 6.4: message and network take turns, level by level."""
        # the same for all images
        rows = np.repeat(self.table("prior_sigma")[None], self.count, axis=0)
        x = self.latents(0, "", rows, self.table("prior_mean"))
        h = self.layer("start1", self.layer("start0", x, low=0), low=0)
        t = self.layer("widen", h.reshape(self.count, -1, 49))
        for i in range(len(self.model["cdf"])):
            # residuals of 3 layers of 4 tensors
            for j in range(sum(name.startswith(f"synthesis.{i}.") for name in self.model) // 12):
                t = self.residual(f"synthesis.{i}.{j}", t)
            if f"levels.{i}.dequantizer" in self.model:  # not after the last part
                h = self.layer(f"levels.{i}.prior0", t, low=0)
                mean = self.layer(f"levels.{i}.prior_mean", h, -131072, 131072)
                rows = self.layer(f"levels.{i}.prior_sigma", h, 0, 63)
                x = self.latents(i + 1, f"levels.{i}.", rows, mean)
                t = np.clip(t + self.layer(f"levels.{i}.merge", x), -1023, 1023)
        # image, v, u, Y, X
        z = self.layer("output", t, 0, 255).astype(np.uint8).reshape(self.count, 4, 4, 7, 7)
        return z.transpose(0, 3, 1, 4, 2).reshape(self.count, 28, 28)  # row 4 Y + v, column 4 X + u

    def residual(self, name: str, t: np.ndarray) -> np.ndarray:
        h = self.layer(f"{name}.reduce", t, low=0)
        h = self.layer(f"{name}.spatial", h, low=0)
        return np.clip(t + self.layer(f"{name}.restore", h), -1023, 1023)

    def latents(self, level: int, name: str, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
        y = 256 * self.symbols(level, rows) + mean  # in 256ths of a step
        return np.clip(scale(y, self.table(name + "dequantizer"), 18), -4095, 4095)

    def symbols(self, level: int, rows: np.ndarray) -> np.ndarray:
        tables, by_image = self.model["cdf"][level].tolist(), rows.reshape(self.count, -1)
        codes = np.zeros_like(by_image)
        # The images alternate: symbol 0 of all images, then symbol 1 ... (5.3). Row 0 takes no
        # step, its code is 0.
        for s, i in np.argwhere(by_image.T).tolist():
            codes[i, s] = self.choose(tables[by_image[i, s]])
        # 0, -1, 1, -2, 2, ...
        return np.where(codes % 2, -(codes + 1) // 2, codes // 2).reshape(rows.shape)

    # The lossless network

    def lossless(self) -> np.ndarray:
        """Stored images, palettes, then pixel by pixel the flags of all images and their values
        (8.1).
        """
        n, model = self.count, self.model
        stored = np.array([self.choose([0, 65520, 65536]) for _ in range(n)], bool)
        pixels = np.zeros((n, 28, 28), np.uint8)
        for i in np.flatnonzero(stored):
            length = 256 * self.byte() + self.byte()
            require(length <= 784, "a stored image is too long")
            pixels[i] = unstored(bytes(self.byte() for _ in range(length)))
        self.palette = np.zeros(n, np.int64)
        for i in np.flatnonzero(~stored):
            self.palette[i] = self.choose([0, *np.cumsum(model["palette.freq"]).tolist()])
        # The state of all images (8.2); `seen` are their pixels so far, with 6 rows of 0 above and
        # 6 columns to either side; the links are padded as well.
        self.seen = np.zeros((n, 34, 40), np.int64)
        self.sums = {
            name: np.zeros((n, model[f"{name}.sums.ink.table"].shape[1]), np.int64)
            for name in ("flag", "value")
        }
        depth = sum(name.startswith("links.") for name in model) // 4
        widths = [len(model[f"links.{j}.bias"]) for j in range(depth)]
        self.links = [np.zeros((n, 29, 30, width), np.int64) for width in widths]
        for p in range(784):
            live = self.near(p)[:, :4].any(axis=1)
            asked = np.flatnonzero(~stored & ~live)
            zero = model["flag.zero_freq"][self.flag_logits(p, asked) + 511].ravel()  # (8.4)
            pairs = zip(asked, zero.tolist(), strict=True)
            flagged = [i for i, z in pairs if self.choose([0, z, 65536])]
            coded = np.array(sorted([*flagged, *np.flatnonzero(~stored & live)]), int)
            if len(coded):
                freq = self.frequencies(p, coded, live[coded])
                for i, table in zip(coded, np.cumsum(freq, axis=1).tolist(), strict=True):
                    if value := self.choose([0, *table]):
                        pixels[i].flat[p] = value
                        self.see(i, p, value)
        return pixels

    def see(self, i: int, p: int, value: int) -> None:
        """Add a pixel that is not 0 to the state of image i (8.2)."""
        self.seen[i, p // 28 + 6, p % 28 + 6] = value
        for name, sums in self.sums.items():
            parts = (self.model[f"{name}.sums.{part}.table"] for part in ("shade", "ink", "count"))
            shade, ink, count = parts
            sums[i] += ((value * shade[p] + 64) >> 7) + ink[p] + count[value]

    def near(self, p: int) -> np.ndarray:
        """The twelve neighbours of pixel p (8.2), (count, 12)."""
        return self.seen[:, p // 28 + 6 + NEAR_ROWS, p % 28 + 6 + NEAR_COLUMNS]

    def window(self, p: int, images: np.ndarray) -> np.ndarray:
        y, x = divmod(p, 28)
        return self.seen[images, y : y + 7, x : x + 13].reshape(-1, 91)[:, :84]

    def first(self, name: str, x: np.ndarray, added: np.ndarray, low: int = 0) -> np.ndarray:
        """(8.3), (images, Z, 1)."""
        a = self.layer(name, x[..., None], -(1 << 22), 1 << 22)[..., 0] + added
        # exact: a is below 2**24
        return np.clip(np.rint(a / 8).astype(np.int64), low, 1023)[..., None]

    def flag_logits(self, p: int, images: np.ndarray) -> np.ndarray:
        """(8.4), (images, 1, 1)."""
        y, x = divmod(p, 28)
        inked = self.seen[images, 6:, 6:-6] > 0
        some = inked.any(axis=(1, 2))
        # argmax: the first that is True
        top = np.where(some, y - inked.any(axis=2).argmax(axis=1), 28)
        left = np.where(some, x - inked.any(axis=1).argmax(axis=1) + 27, 55)
        added = np.clip(self.sums["flag"][images], -(1 << 22), 1 << 22)
        added = added + self.model["flag.position.table"][p]
        added += self.model["flag.top.table"][top] + self.model["flag.left.table"][left]
        window = self.window(p, images)
        h = self.first("flag.window", np.concatenate([window, 128 * (window > 0)], axis=1), added)
        return self.layer("flag.logit", h, -511, 511)

    def frequencies(self, p: int, images: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Frequencies of the values (images, 256), as in 8.5."""
        model, palette, (y, x) = self.model, self.palette[images], divmod(p, 28)
        sums = np.clip((self.sums["value"][images] + 16) >> 5, -1023, 1023)
        near = model["value.near.table"][np.arange(12), self.near(p)[images]]
        added = model["value.position.table"][p] + model["value.palette.table"][palette]
        added += ~live[:, None] * model["value.flagged.table"]
        inputs = [self.window(p, images), sums, near.reshape(len(images), -1)]
        h = self.first("value.input", np.concatenate(inputs, axis=1), added, -1023)
        for j, links in enumerate(self.links):
            r = np.maximum(h, 0)
            links[images, y + 1, x + 1] = self.layer(f"links.{j}", r)[..., 0]
            offsets = zip(NEAR_ROWS[:4], NEAR_COLUMNS[:4], strict=True)
            passed = [links[images, y + 1 + v, x + 1 + u, :, None] for v, u in offsets]
            change = self.layer(f"hidden.{j}", np.concatenate([r, *passed], axis=1), -2046, 2046)
            h = np.clip(h + change, -1023, 1023)
        logits = self.layer("head", np.maximum(h, 0), -32768, 32768)[..., 0]
        logits += model["palette.logits.table"][palette]
        best, every = logits.argmax(axis=1), np.arange(len(logits))  # the first of the largest
        weights = model["exp"][np.minimum(logits[every, best][:, None] - logits, 511)]
        freq = 1 + (weights * (65280 * 65536 // weights.sum(axis=1, keepdims=True)) >> 16)
        freq[every, best] += 65536 - freq.sum(axis=1)
        return freq


# Models


@cache
def find_model(model_hash: bytes, weights: Path, embedded: bytes = b"") -> tuple[bytes, Tensors]:
    """SHA-256 and tensors of a model (7), from `weights` or from the stream itself.

    Only what the arithmetic rests on is checked here.
    """
    paths = sorted(path for path in Path(weights).iterdir() if path.is_file())
    small = (path.read_bytes() for path in paths if path.stat().st_size <= 1 << 24)
    for file in (*small, embedded):
        digest = sha256(file).digest()
        if digest[:8] == model_hash:
            return digest, tensors_of(file)
    raise ValueError(f"no file in {weights} has the Model_Hash {model_hash.hex()}")


def tensors_of(file: bytes) -> Tensors:
    """The tensors of a model file (7.2, 8.6), checked."""
    data = 8 + int.from_bytes(file[:8], "little")
    header, model = json.loads(file[8:data]), {}
    architecture = header.pop("__metadata__")["architecture"]
    require(architecture in ("ladder-1", "pixels-3"), "the model's architecture is unknown")
    same = (architecture == "pixels-3") == ("head.weight" in header)
    require(same, "the model has tensors of another architecture")
    for name, entry in header.items():
        kinds = {"weight": ("I8", "I16"), "table": ("I16",)}.get(name.split(".")[-1], ("I32",))
        size = int(entry["dtype"][1:]) // 8 if entry["dtype"] in kinds else 0
        begin, end = (data + offset for offset in entry["data_offsets"])
        fits = data <= begin <= end <= len(file) and end - begin == size * prod(entry["shape"])
        require(size and fits, f"{name} has another type or size")
        values = np.frombuffer(file[begin:end], f"<i{size}").reshape(entry["shape"])
        model[name] = values.astype(np.int64)
    for name in model:
        if name.endswith(".weight"):
            check_layer(model, name.removesuffix(".weight"))
    if architecture == "ladder-1":
        cdf = model["cdf"]  # from 0 to 65536, rising until it gets there (7.3)
        rises = (np.diff(cdf) >= (cdf[..., :-1] < 65536)).all()
        complete = (cdf[..., 0] == 0).all() and (cdf[..., -1] == 65536).all()
        require(rises and complete, "the cdf is out of order")
    else:
        check_pixel_tables(model)
    return model


def check_layer(model: Tensors, name: str) -> None:
    """The bound of 6.3: with it every sum is exact in float32, too."""
    parts = (model[f"{name}.{part}"] for part in ("weight", "bias", "shift", "multiplier"))
    weight, bias, shift, multiplier = parts
    input_max = 255 if name.endswith(".window") else 1023
    if name == "start0" or name.endswith(".merge"):
        input_max = 4095
    largest = input_max * abs(weight).reshape(len(weight), -1).sum(1)
    largest = largest + abs(bias).reshape(len(bias), -1).max(1) + abs(shift).max(0)
    require(largest.max() < 1 << 24, f"the sums of {name} are out of range")
    in_range = 1 <= multiplier.min() and multiplier.max() <= 1 << 24
    require(in_range, f"a multiplier of {name} is out of range")


def check_pixel_tables(model: Tensors) -> None:
    """(8.6)"""
    zero, exp, freq = (model[name] for name in ("flag.zero_freq", "exp", "palette.freq"))
    in_range = len(zero) == 1023 and 1 <= zero.min() and zero.max() < 65536
    require(in_range, "flag.zero_freq is out of range")
    in_range = len(exp) == 512 and exp[0] == 65536 == exp.max() and exp.min() >= 0
    require(in_range, "exp is out of range")
    in_range = len(freq) <= 256 and freq.min() >= 1 and freq.sum() == 65536
    require(in_range, "palette.freq is out of range")
    require(abs(model["value.near.table"]).max() <= 1023, "value.near.table is out of range")
