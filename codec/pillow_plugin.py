"""Pillow reads and writes `.aez` files: `Image.open("x.aez")`, `image.save("x.aez", quality=80)`.

    import codec.pillow_plugin         # or codec.register(); nothing else in aez imports it

    image.save("x.aez", quality=80)    # also lossless=, model=, effort=, max_bytes=, min_psnr=
    first.save("all.aez", save_all=True, append_images=rest, names=names)  # a collection
                                       # names=, labels= and embed_model= only if wanted
    for frame in ImageSequence.Iterator(Image.open("all.aez")): ...

READ ME FIRST
- Opening reads headers. If they are at fault it raises SyntaxError, so `Image.open` tries the other
  formats and then raises UnidentifiedImageError. A frame is decoded when its pixels are first used,
  with the others of its group; if they are damaged, or their model is not installed, that raises
  OSError, whose `__cause__` is the codec's own error.
- A collection is an image of several frames; `info["name"]` and `info["label"]` are name and label
  of the frame that has been loaded. An empty collection is not an image. A collection that is
  damaged at its start or end does not open: `aez decompress` restores the rest.
- Nothing is converted. Saving an image that is not 28x28, 8-bit and grey raises OSError, as other
  formats do, whose `__cause__` is the ImageError; so does a goal that cannot be kept (`max_bytes`).
  Wrong options raise UsageError, which is a ValueError. Pillow ignores options that a format does
  not have, and so misspelt ones.
- Pillow empties an existing file before a format writes it. So overwrite a file only with frames
  that are loaded, and never a collection with itself.
- Pickling and copying keep only the current frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

from PIL import Image, ImageFile, ImageSequence

from codec import api
from codec.arrays import SIDE, U8
from codec.collection.open import open_stream
from codec.collection.reader import Collection
from codec.collection.single import SingleImage
from codec.encoder.writer import check_names
from codec.errors import AezError, BitstreamError, ImageError, ModelError, UsageError
from codec.files import images
from codec.format.constants import MAGIC
from codec.labels import checked

FORMAT, EXTENSION, MIME_TYPE = "AEZ", ".aez", "image/x-aez"
OPTIONS = ("quality", "lossless", "model", "effort", "max_bytes", "min_psnr")


class AezImageFile(ImageFile.ImageFile):
    """A single image, or a collection as frames.  Made by `Image.open`."""

    format = FORMAT
    format_description = "aez, a learned codec for 28x28 images"
    _close_exclusive_fp_after_loading = False

    # Defaults for a copy made by unpickling, where Pillow does not call `__init__`.
    fp = None
    n_frames = 1
    is_animated = False
    _min_frame = 0
    _frame = 0
    _stream: Collection | SingleImage | None = None
    _is_pending = False  # whether the current frame is not yet decoded

    def _open(self) -> None:
        try:
            self._stream = open_stream(cast(BinaryIO, self.fp))
            self.n_frames = len(self._stream)
        except BitstreamError as error:
            raise SyntaxError(str(error)) from error
        if not self.n_frames:
            raise SyntaxError("a collection without images")
        self.is_animated = self.n_frames > 1
        self._mode, self._size, self._is_pending = "L", (SIDE, SIDE), True
        self.tile = []  # nothing for Pillow to decode; it is None there before Pillow 11

    def load(self) -> Any:
        """Decode the current frame, unless it is decoded.  Raises OSError."""
        if self._is_pending:
            try:
                pixels = self._pixels()
            except AezError as error:
                raise OSError(str(error)) from error
            self.im = Image.fromarray(pixels).im
            self.readonly, self._is_pending = 0, False
        return super().load()

    def _pixels(self) -> U8:
        assert self._stream is not None
        pixels = self._stream[self._frame]
        self.info.pop("name", None)
        self.info.pop("label", None)
        with contextlib.suppress(BitstreamError):  # of damaged names; the pixels are intact
            if name := self._stream.name(self._frame):
                self.info["name"] = name
        with contextlib.suppress(BitstreamError, UsageError):  # UsageError: it has none
            if isinstance(self._stream, Collection):
                self.info["label"] = self._stream.label(self._frame)
        if not self.is_animated:
            self._release()
        return pixels

    def _release(self) -> None:
        """Let go of the file: nothing more is read."""
        self._stream = None
        if self._exclusive_fp and self.fp is not None:
            self.fp.close()
        self.fp = None

    def seek(self, frame: int) -> None:
        """Go to a frame, the first is 0.  Raises EOFError."""
        if self._seek_check(frame):
            self._frame, self._is_pending = frame, True

    def tell(self) -> int:
        """The number of the current frame."""
        return self._frame

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._stream = None


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except (ImageError, ModelError) as error:
        raise OSError(f"cannot write as {FORMAT}: {error}") from error


def _options(image: Image.Image, *more: str) -> dict[str, Any]:
    info: dict[str, Any] = image.encoderinfo
    return {option: info[option] for option in (*OPTIONS, *more) if option in info}


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """The current frame as a single-image stream."""
    with _as_os_errors():
        stream = api.compress(images.pixels_of(image, "the image"), **_options(image))
    fp.write(stream)


def _save_all(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """All frames of the image and of `append_images` as a collection, even if there is only one."""
    names, labels = image.encoderinfo.get("names"), image.encoderinfo.get("labels")
    names = None if names is None else check_names(names)
    labels = None if labels is None else checked(labels)
    position, count = image.tell(), 0
    options = _options(image, "embed_model")
    try:
        with _as_os_errors(), api.CollectionWriter(cast(BinaryIO, fp), **options) as collection:
            for each in (image, *image.encoderinfo.get("append_images", ())):
                for frame in ImageSequence.Iterator(each):
                    pixels = images.pixels_of(frame, f"frame {count}")
                    name, label = (
                        _of_frame(names, count, "names"),
                        _of_frame(labels, count, "labels"),
                    )
                    collection.write(pixels[None], name, label)
                    count += 1
            for given, what in ((names, "names"), (labels, "labels")):
                if given is not None and len(given) != count:
                    raise UsageError(f"{len(given)} {what} for {count} frames")
    finally:
        image.seek(position)


def _of_frame(given: Any, frame: int, what: str) -> Any:
    """The name or label of a frame, as a list of one."""
    if given is not None and len(given) <= frame:
        raise UsageError(f"{len(given)} {what} for {frame + 1} frames or more")
    return None if given is None else given[frame : frame + 1]


def register() -> None:
    """Register the format with Pillow; importing this module does it."""
    Image.register_open(FORMAT, AezImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_save_all(FORMAT, _save_all)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME_TYPE)


register()
