"""border: goes when all import the modules below instead."""

from codec.format.constants import *  # noqa: F403
from codec.format.footer import *  # noqa: F403
from codec.format.headers import *  # noqa: F403
from codec.format.headers import _check_start as _check_start
from codec.format.primitives import *  # noqa: F403
from codec.format.primitives import _CRC8 as _CRC8
