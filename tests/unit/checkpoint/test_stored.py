"""The manifest's table of element sizes is torch's."""

from megaxlm.checkpoint.fragments import DTYPES
from megaxlm.checkpoint.stored import ELEMENT_BYTES


def test_every_dtype_has_the_size_that_torch_says() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == ELEMENT_BYTES
