"""Kernels on several devices: JAX shards the rows, every device does the same amount of work."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ntkbook.kernels.protocol import Kernel, mirrored, require_kernel, require_pair

AXIS = "rows"


@dataclass(frozen=True)
class ShardedKernel:
    """A kernel whose rows lie on several devices."""

    kernel: Kernel
    devices: tuple[Any, ...]

    def __post_init__(self) -> None:
        require_kernel("on_devices", self.kernel)
        if not self.devices:
            raise ValueError("on_devices needs at least one device, got none")
        if not all(isinstance(device, jax.Device) for device in self.devices):
            raise TypeError(f"on_devices needs devices as in jax.devices(), got {self.devices}")
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(f"on_devices needs different devices, got {self.devices}")

    @property
    def mesh(self) -> Mesh:
        """The devices, in a row."""
        return Mesh(np.array(self.devices), (AXIS,))

    def __call__(
        self, x1: Float[ArrayLike, "n1 *d"], x2: Float[ArrayLike, "n2 *d"] | None = None
    ) -> Float[Array, "n1 n2 *outputs"]:
        x1, checked = require_pair(x1, x2)
        everywhere = NamedSharding(self.mesh, P())
        if x2 is None:
            return _symmetric(self, jax.device_put(x1, everywhere))
        return _cross(self, *jax.device_put((x1, checked), everywhere))


def _repeat_last(x: Array, multiple: int) -> Array:
    """x, lengthened by copies of its last input: real inputs, at which every kernel is finite."""
    return jnp.pad(x, ((0, -len(x) % multiple),) + ((0, 0),) * (x.ndim - 1), mode="edge")


@partial(jax.jit, static_argnums=0)
def _cross(self: ShardedKernel, x1: Array, x2: Array) -> Array:
    # No check of replication: a kernel may loop, and JAX then asks for annotations inside.
    rows = jax.shard_map(
        self.kernel, mesh=self.mesh, in_specs=(P(AXIS), P()), out_specs=P(AXIS), check_vma=False
    )
    return rows(_repeat_last(x1, len(self.devices)), x2)[: len(x1)]


@partial(jax.jit, static_argnums=0)
def _symmetric(self: ShardedKernel, x: Array) -> Array:
    """K(x), each block of it computed on one device and handed to the one that needs its mirror.

    Device p owns block p of the inputs, and computes the blocks (p, p), (p, p + 1), ... of K half
    way around the circle of devices; the other half are mirrors of what the others compute. The
    block opposite, which an even circle has, is shared by its two owners.
    """
    count = len(self.devices)
    half = count // 2

    def send(block: Array, shift: int) -> Array:
        return jax.lax.ppermute(block, AXIS, [(p, (p + shift) % count) for p in range(count)])

    def rows(x: Array) -> Array:
        x = x.reshape(count, -1, *x.shape[1:])
        p = jax.lax.axis_index(AXIS)
        ahead = {0: self.kernel(x[p])}  # ahead[k] is block (p, p + k)
        for k in range(1, (count + 1) // 2):
            ahead[k] = self.kernel(x[p], x[(p + k) % count])
            ahead[count - k] = mirrored(send(ahead[k], k))
        if count % 2 == 0:
            # The first owner computes the upper half of block (low, high), the second the lower.
            low, middle = p % half, x.shape[1] // 2
            first = p < half
            start = jnp.where(first, 0, middle)
            mine = self.kernel(jax.lax.dynamic_slice_in_dim(x[low], start, middle), x[low + half])
            theirs = send(mine, half)
            ahead[half] = jnp.where(
                first,
                jnp.concatenate([mine, theirs]),
                mirrored(jnp.concatenate([theirs, mine])),
            )
        blocks = jnp.roll(jnp.stack([ahead[k] for k in range(count)]), p, axis=0)
        return jnp.concatenate(list(blocks), axis=1)

    padded = _repeat_last(x, 2 * count if count % 2 == 0 else count)
    whole = jax.shard_map(rows, mesh=self.mesh, in_specs=P(), out_specs=P(AXIS), check_vma=False)
    return whole(padded)[: len(x), : len(x)]


def on_devices(kernel: Kernel, devices: Iterable[Any] | None = None) -> ShardedKernel:
    """The same kernel, its rows computed on several devices at once.

    Every device does the same work: n1 * n2 / devices entries, and half of that in a symmetric
    call k(x), where each pair of inputs is computed once and its mirror image sent.

    Args:
        kernel: any kernel that JAX can trace: `ntk`, `nngp`, `empirical_ntk`, or a function.
        devices: on which; by default all that JAX has, ``jax.devices()``.

    Returns:
        A kernel: the numbers are those of one device, to rounding. Where the number of devices
        divides n1, each keeps the rows it computed, as ``k(x).sharding`` says; otherwise JAX has
        no such sharding, and every device gets the whole.

    Raises:
        ValueError: for no devices, or one named twice; when called, as the kernel.
        TypeError: if kernel is not a function, or devices are not devices.

    Example:
        >>> k = on_devices(lambda x1, x2=None: x1 @ (x1 if x2 is None else x2).T)
        >>> k(jnp.array([[1.0], [2.0], [3.0]])).tolist()
        [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]]

    Source: `jax.shard_map`; appendix "Scaling up".
    """
    if devices is None:
        devices = jax.devices()
    if not isinstance(devices, Iterable):
        raise TypeError(f"on_devices needs devices as in jax.devices(), got {devices!r}")
    return ShardedKernel(kernel, tuple(devices))
