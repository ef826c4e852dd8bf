"""Colours as people see them: contrast, distance, and what the colour blind see; and how to read one off a page."""

from __future__ import annotations

from typing import Any

import numpy as np

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
PIXEL = """(element, property) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = getComputedStyle(element)[property];
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def linear(rgb: Any) -> Any:
    values = np.asarray(rgb, float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def seen_by(rgb: Any, blindness: str | None) -> Any:
    """Linear RGB as somebody with this blindness sees it."""
    return linear(rgb) if blindness is None else np.clip(np.array(BLIND[blindness]) @ linear(rgb), 0, 1)


def lab(rgb: Any) -> Any:
    """CIE L*a*b* under D65, of linear RGB."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x = np.array(matrix) @ rgb / np.array([0.95047, 1.0, 1.08883])
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: Any, other: Any) -> float:
    """WCAG 2's ratio of two colours in linear RGB."""
    light, dark = sorted((float(np.array([0.2126, 0.7152, 0.0722]) @ c) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
