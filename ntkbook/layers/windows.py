"""Windows of positions: what convolution and pooling ask of their shapes."""

from ntkbook.layers.protocol import Shape, require_shape, require_width


def require_window(owner: str, name: str, window: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse what is not one or two positive integers."""
    if not isinstance(window, tuple) or not 1 <= len(window) <= 2:
        raise ValueError(
            f"{name} of {owner} must be a tuple of one or two positive integers, got {window!r}"
        )
    for side in window:
        require_width(f"each number of {name}", side)
    return window


def require_strides(owner: str, window: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """Refuse strides, where there are any, that do not match the window."""
    if strides is not None and len(require_window(owner, "strides", strides)) != len(window):
        raise ValueError(
            f"{owner} needs one stride for each side of its window {window}, got {strides}"
        )


def require_grid(layer: object, shape: Shape, axes: int) -> None:
    """Refuse inputs with another number of position axes than the window has."""
    require_shape(layer, shape)
    if len(shape) != axes + 1:
        expected = "(length, channels)" if axes == 1 else "(height, width, channels)"
        raise ValueError(f"{layer} expects in_shape {expected}, got {shape}")
