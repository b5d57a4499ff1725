"""How KV is stored: as it is, or in fewer bits with a scale for each token and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from memos_core.errors import InvalidArgument

Quantization = Literal["int8", "fp8"]


@dataclass(frozen=True)
class Form:
    """KV as it is.

    Args:
        name: what distinguishes KV stored so; "" is exact.
    """

    name: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """What is stored of a layer."""
        return ("key", "value")

    def pack(self, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """A layer's tensors, as they are stored; each has the tokens at dimension 2."""
        return keys, values

    def unpack(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The layer's keys and values out of what is stored."""
        return stored


@dataclass(frozen=True)
class Scaled(Form):
    """KV in 8 bits, each token and head divided by its largest absolute value."""

    kind: torch.dtype = torch.int8

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Form.parts`."""
        return ("key", "value", "key_scale", "value_scale")

    def pack(self, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """See `Form.pack`."""
        (k, key_scale), (v, value_scale) = self._scaled(keys), self._scaled(values)
        return k, v, key_scale, value_scale

    def unpack(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """See `Form.unpack`."""
        k, v, key_scale, value_scale = stored
        return (k.float() * key_scale).to(dtype), (v.float() * value_scale).to(dtype)

    def _scaled(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        whole = tensor.float()
        largest = torch.iinfo(self.kind).max if self.kind == torch.int8 else torch.finfo(self.kind).max
        scale = (whole.abs().amax(dim=-1, keepdim=True) / largest).clamp_min(1e-12)
        small = whole / scale
        return (small.round() if self.kind == torch.int8 else small).to(self.kind), scale


EXACT = Form()
_FORMS: dict[str | None, Form] = {
    None: EXACT,
    "int8": Scaled("int8", torch.int8),
    "fp8": Scaled("fp8", torch.float8_e4m3fn),
}


def form_of(quantization: Quantization | None) -> Form:
    """How KV is stored with this option.

    Raises:
        InvalidArgument: no such option.
    """
    if quantization not in _FORMS:
        raise InvalidArgument(f"quantization={quantization!r}; pass None (exact), 'int8' or 'fp8'")
    return _FORMS[quantization]
