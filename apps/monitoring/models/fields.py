"""A model field that stores a NumPy array."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db import models


class ArrayField(models.BinaryField):
    """A NumPy array of a fixed shape, stored as its bytes; an array of zeros is stored as an empty value.

    Args:
        shape: the array's shape.
        dtype: NumPy's name of a little-endian type.
        grows: the first axis is a list of names. Names may be appended to that list later: an array that was
            stored before then is read with zeros for them.
    """

    def __init__(
        self, *args: Any, shape: Sequence[int], dtype: str = "<u4", grows: bool = False, **kwargs: Any
    ) -> None:
        self.shape, self.dtype, self.grows = tuple(shape), dtype, grows
        super().__init__(*args, **{"default": bytes, **kwargs})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        options = {"shape": self.shape, "dtype": self.dtype} | ({"grows": True} if self.grows else {})
        return name, path, args, {**kwargs, **options}

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> np.ndarray:
        if not value:
            return np.zeros(self.shape, self.dtype)
        stored = np.frombuffer(value, self.dtype)
        if not self.grows or stored.size == np.prod(self.shape):
            return stored.reshape(self.shape)
        padded = np.zeros(self.shape, self.dtype)
        stored = stored.reshape(-1, *self.shape[1:])[: self.shape[0]]
        padded[: len(stored)] = stored
        return padded

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        packed = np.ascontiguousarray(value, self.dtype).tobytes() if np.any(value) else b""
        return super().get_db_prep_value(packed, connection, prepared)
