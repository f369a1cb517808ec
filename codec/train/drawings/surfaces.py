"""Surfaces, areas of grey: clouds, ramps, what repeats, noise, smooth bodies.

Each function draws one image of its kind: float64 (28, 28), about 0..1.
"""

from __future__ import annotations

import math

import numpy as np

from codec.arrays import F64, SIDE

Rng = np.random.Generator

# The middle of each pixel, -1 .. 1.
Y, X = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / (SIDE / 2) - 1
_FREQUENCY = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
_FREQUENCY[0, 0] = 1 / SIDE


def stretched(x: F64) -> F64:
    low, high = x.min(), x.max()
    return (x - low) / max(high - low, 1e-9)


def noise_field(rng: Rng, power: float) -> F64:
    """Noise of amplitude 1 / frequency**power, 0..1; 1 is that of natural images."""
    spectrum = (
        rng.normal(size=_FREQUENCY.shape) + 1j * rng.normal(size=_FREQUENCY.shape)
    ) / _FREQUENCY**power
    return stretched(np.fft.irfft2(spectrum, (SIDE, SIDE)))


def fields(rng: Rng) -> F64:
    """Clouds: noise with the spectrum of natural images, rougher or smoother, some with ridges or
    terraces.
    """
    field = noise_field(rng, rng.uniform(0.5, 2.0))
    match rng.integers(4):
        case 0:
            return np.abs(2 * field - 1)
        case 1:
            return np.maximum(field, noise_field(rng, 1.0))
        case _:
            return field


def gradients(rng: Rng) -> F64:
    """A ramp: straight, round, or around a point; bent, some repeated or with noise."""
    x, y = rng.normal(size=2) * 0.6
    turn = rng.uniform(0, 2 * math.pi)
    match rng.integers(3):
        case 0:
            ramp = stretched(X * math.cos(turn) + Y * math.sin(turn))
        case 1:
            ramp = stretched(np.hypot((X - x) * math.exp(rng.normal() * 0.4), Y - y))
        case _:
            ramp = (np.arctan2(Y - y, X - x) + turn) / (2 * math.pi) % 1
    ramp = ramp ** math.exp(rng.normal() * 0.5)
    if rng.random() < 0.2:
        ramp = ramp * rng.integers(2, 5) % 1
    return ramp + rng.normal(size=ramp.shape) * rng.choice([0, 0, 0.02, 0.06])


def _waves(rng: Rng, x: F64, period: float) -> F64:
    """A periodic profile along `x`: sine, saw, or bars of any duty."""
    phase = (x / period + rng.random()) % 1
    match rng.integers(3):
        case 0:
            return 0.5 + 0.5 * np.sin(2 * math.pi * phase)
        case 1:
            return phase if rng.random() < 0.5 else np.abs(2 * phase - 1)
        case _:
            return (phase < rng.uniform(0.2, 0.8)).astype(np.float64)


def textures(rng: Rng) -> F64:
    """What repeats: stripes, checkerboards, dots, weaves, tiles, with any period, phase and
    direction.
    """
    turn = rng.choice([0, math.pi / 2, math.pi / 4, rng.uniform(0, math.pi)])
    pixels_x, pixels_y = 14 * (X + 1) - 0.5, 14 * (Y + 1) - 0.5
    u = pixels_x * math.cos(turn) + pixels_y * math.sin(turn)
    v = pixels_y * math.cos(turn) - pixels_x * math.sin(turn)
    period = (
        float(rng.integers(2, 15))
        if rng.random() < 0.6
        else math.exp(rng.uniform(math.log(2), math.log(20)))
    )
    match rng.integers(6):
        case 0:
            return _waves(rng, u, period)
        case 1:
            px, py = rng.integers(1, 11, 2) if rng.random() < 0.3 else [rng.integers(1, 11)] * 2
            board = (pixels_x + rng.integers(20)) // px + (pixels_y + rng.integers(20)) // py
            return board % 2
        case 2:
            return (np.floor(u / period + rng.random()) + np.floor(v / period + rng.random())) % 2
        case 3:
            return 0.5 * (
                _waves(rng, u, period) + _waves(rng, v, period * rng.choice([1, 1, 2, 0.5]))
            )
        case 4:
            tile = rng.random((int(rng.integers(2, 9)), int(rng.integers(2, 9))))
            if rng.random() < 0.4:
                tile = np.round(tile)
            times = (SIDE // tile.shape[0] + 1, SIDE // tile.shape[1] + 1)
            return np.tile(tile, times)[:SIDE, :SIDE]
        case _:
            bent = u + rng.uniform(1, 8) * noise_field(rng, 1.5)
            return _waves(rng, bent, period)


def noise(rng: Rng) -> F64:
    """Noise alone: white, Gaussian, specks, lines, squares."""
    match rng.integers(5):
        case 0:
            return rng.random((SIDE, SIDE))
        case 1:
            return 0.5 + rng.normal(size=(SIDE, SIDE)) * rng.uniform(0.02, 0.3)
        case 2:
            return (rng.random((SIDE, SIDE)) < rng.uniform(0.01, 0.5)) * rng.uniform(
                0.3, 1, (SIDE, SIDE)
            )
        case 3:
            lines = np.broadcast_to(rng.random((SIDE, 1)), (SIDE, SIDE))
            return lines.T if rng.random() < 0.5 else lines
        case _:
            size = int(rng.choice([2, 4, 7]))
            return np.kron(rng.random((SIDE // size, SIDE // size)), np.ones((size, size)))


def blobs(rng: Rng) -> F64:
    """Smooth bodies that shine through each other, as in X-rays and cells, some with ribs and
    grain.
    """
    x = np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(1, 9)):
        turn = rng.uniform(0, math.pi)
        dx, dy = X - rng.normal() * 0.5, Y - rng.normal() * 0.5
        u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        a, b = np.exp(rng.uniform(math.log(0.08), math.log(1.2), 2))
        far = (u / a) ** 2 + (v / b) ** 2
        body = np.exp(-far) if rng.random() < 0.6 else 1 / (1 + far ** rng.uniform(1, 5))
        x += rng.choice([1, 1, -0.7]) * rng.uniform(0.3, 1) * body
    if rng.random() < 0.25:
        arc = (
            np.hypot(X * rng.uniform(0.7, 1.4), Y - rng.choice([-1, 1]) * rng.uniform(0.5, 2)) * 14
        )
        x += rng.uniform(0.05, 0.3) * (0.5 + 0.5 * np.sin(arc * 2 * math.pi / rng.uniform(3, 7)))
    if rng.random() < 0.5:
        x += rng.uniform(0.05, 0.6) * noise_field(rng, rng.uniform(0.7, 1.6))
    return stretched(x)
