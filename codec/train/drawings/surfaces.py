"""Surfaces, areas of grey: clouds, ramps, what repeats, noise, smooth bodies, what instruments see.

Each function draws one image of its kind: float64 (28, 28), about 0..1.
"""

from __future__ import annotations

import math

import numpy as np

from codec.arrays import F64, SIDE

Rng = np.random.Generator

# The middle of each pixel, -1 .. 1.
Y, X = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / (SIDE / 2) - 1
_FY, _FX = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
_FREQUENCY = np.hypot(_FY, _FX)
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


# What instruments see


def scans(rng: Rng) -> F64:
    """A slice through a body, as of tomographs: an oval in a dark room, with a bright rim, organs
    and grain.
    """
    turn, size = rng.uniform(0, math.pi), rng.uniform(0.6, 1.6)
    dx, dy = X - rng.normal() * 0.4, Y - rng.normal() * 0.4
    u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    far = np.hypot(u * rng.uniform(1, 1.5), v) / size + 0.1 * (noise_field(rng, 2) - 0.5)
    inside = 1 / (1 + np.exp((far - 1) * rng.uniform(15, 60)))
    rim = np.exp(-(((far - rng.uniform(0.8, 0.97)) * rng.uniform(10, 30)) ** 2))
    x = inside * (rng.uniform(0.1, 0.6) + rng.uniform(0.1, 0.6) * blobs(rng))
    x += rng.choice([0, 1]) * rng.uniform(0.2, 0.8) * rim
    return x + rng.normal(size=x.shape) * rng.uniform(0, 0.04)


def speckles(rng: Rng) -> F64:
    """Tissue under ultrasound or laser light: speckle whose grains are long in one direction, on a
    scale of decibels, some within a sector.
    """
    tall, wide = np.exp(rng.uniform(math.log(0.5), math.log(3), 2))
    lens = np.exp(-2 * math.pi**2 * ((_FX * wide) ** 2 + (_FY * tall) ** 2))
    waves = rng.normal(size=(2, SIDE, SIDE))
    amplitude = np.hypot(*np.fft.irfft2(np.fft.rfft2(waves) * lens, (SIDE, SIDE)))
    tissue = (blobs(rng) if rng.random() < 0.6 else fields(rng)) + rng.uniform(0.01, 0.3)
    decibels = 20 * np.log10(amplitude / amplitude.max() * tissue + 1e-4)
    x = np.clip(1 + decibels / rng.uniform(25, 60), 0, 1)
    if rng.random() < 0.2:
        angle = np.arctan2(X - rng.normal() * 0.3, Y + rng.uniform(1, 2))
        x *= np.abs(angle) < rng.uniform(0.3, 0.7)
    return x


def cells(rng: Rng) -> F64:
    """A micrograph: cells with walls and nuclei on a bright or a dark ground, uneven light, shot
    noise.
    """
    x = np.full((SIDE, SIDE), 0.8) + 0.1 * noise_field(rng, 2)
    radius, softness = math.exp(rng.uniform(math.log(0.1), math.log(0.8))), rng.uniform(8, 40)
    for _ in range(min(40, rng.poisson(1 + 0.5 / radius**2))):
        dx, dy = X - rng.uniform(-1.2, 1.2), Y - rng.uniform(-1.2, 1.2)
        far = np.hypot(dx, dy * rng.uniform(0.7, 1.4)) / (radius * rng.uniform(0.7, 1.3)) - 1
        x -= rng.uniform(0.05, 0.3) / (1 + np.exp(far * radius * softness))
        x -= rng.uniform(0, 0.3) * np.exp(-((far * radius * softness / 2) ** 2))
        x -= rng.uniform(0, 0.4) / (1 + np.exp((far + rng.uniform(0.4, 0.8)) * radius * softness))
    x = 1 - x if rng.random() < 0.5 else x
    photons = math.exp(rng.uniform(math.log(20), math.log(5000)))
    return rng.poisson(np.clip(x, 0, 1) * photons) / photons


def spectrograms(rng: Rng) -> F64:
    """Frequency over time: harmonics that drift and fade, clicks, a floor of noise, on a scale of
    decibels.
    """
    time, power = X[0], np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(1, 4)):
        tone, drift = rng.uniform(0.05, 0.8), rng.normal(size=3) * 0.2
        lowest = tone * np.exp(drift @ [time, time**2, np.sin(3 * time)])
        onset, fade, width = rng.uniform(-1.5, 0.8), rng.uniform(0.2, 5), rng.uniform(0.02, 0.1)
        loud = np.exp(-(time - onset) * fade) * (time > onset)
        for k in range(1, int(rng.integers(2, 14))):
            line = np.exp(-(((1 - Y - k * lowest) / width) ** 2))
            power += loud * line / k ** rng.uniform(0.5, 2)
    if rng.random() < 0.3:
        power += rng.uniform(0.1, 1) * np.exp(-(((X - rng.uniform(-1, 1)) / 0.08) ** 2))
    floor = 10 ** rng.uniform(-4, -1) * (1 + Y * rng.uniform(-0.5, 0.9))
    power = (power + floor) * rng.exponential(size=(SIDE, SIDE)) ** rng.uniform(0, 1)
    return np.clip(1 + 10 * np.log10(power + 1e-9) / rng.uniform(20, 60), 0, 1)
