"""Patches: an image is cut into squares, and each square becomes one row.

Forward   (1)  split height and width into (row of patches, row in the patch) and (column of patches, column in the
               patch)
          (2)  bring the axes of one patch together, channel first
Backward  No number is changed, each only moves: the backward moves it back, (2) before (1).

The entries of a patch stand in the order (channel, row, column), as in the weights of a convolution whose stride is
its kernel size; so such a convolution is these patches followed by a linear map.

Source: Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1.
"""

from numbers import Integral
from typing import NamedTuple

from lora_np.ops.fit import fit


class PatchesCache(NamedTuple):
    shape: tuple  # of the images, (n, H, W, C)
    size: int


def patches_forward(images, size):
    """Return rows (n, T, C * size * size) and the cache, T = (H / size) (W / size), for images (n, H, W, C).

    Raises
    ------
    ValueError
        If the images do not have four axes or the patches do not fill them.
    """
    fit("patches", "images (n, H, W, C)", images)
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1 or any(a % size for a in images.shape[1:3]):
        raise ValueError(
            f"patches of {size} x {size} do not fill images of shape {images.shape}; expected (n, H, W, C), H and W"
            " multiples of the size."
        )
    n, H, W, C = images.shape
    grid = images.reshape(n, H // size, size, W // size, size, C)  # (1)
    grid = grid.transpose(0, 1, 3, 5, 2, 4)  # (2)
    y = grid.reshape(n, (H // size) * (W // size), C * size * size)  # (n, T, P)
    return y, PatchesCache(images.shape, size)


def patches_backward(dy, cache):
    """Return dimages (n, H, W, C)."""
    shape, size = cache
    n, H, W, C = shape
    fit("patches_backward", "dy (n, T, P)", dy, n=n, T=H // size * (W // size), P=C * size * size)
    grid = dy.reshape(n, H // size, W // size, C, size, size)
    grid = grid.transpose(0, 1, 4, 2, 5, 3)  # (2)
    dimages = grid.reshape(shape)  # (n, H, W, C)  (1)
    return dimages
