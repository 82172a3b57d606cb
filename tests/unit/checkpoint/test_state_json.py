import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaxlm.checkpoint import state_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_plain_values_come_back_as_they_were(state):
    back = state_json.loads(state_json.dumps(state))
    assert back == state
    assert repr(back) == repr(state)  # tells 1 from 1.0 and True, -0.0 from 0.0, tuple from list


def test_random_states_go_on_where_they_were():
    generator = np.random.default_rng(7)
    legacy = np.random.RandomState(7)
    state = {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "numpy": generator.bit_generator.state,
        "legacy": legacy.get_state(),
    }
    content = state_json.dumps(state)
    expected = (
        random.random(),
        torch.rand(3),
        generator.random(3),
        legacy.rand(3),
    )
    back = state_json.loads(content)
    random.setstate(back["python"])
    torch.set_rng_state(back["torch"])
    fresh = np.random.default_rng(0)
    fresh.bit_generator.state = back["numpy"]
    old = np.random.RandomState(0)
    old.set_state(back["legacy"])
    assert random.random() == expected[0]
    assert torch.equal(torch.rand(3), expected[1])
    assert np.array_equal(fresh.random(3), expected[2])
    assert np.array_equal(old.rand(3), expected[3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_tensors_keep_dtype_shape_and_bits(dtype, shape):
    tensor = (torch.rand(shape) * 3).to(dtype)
    back = state_json.loads(state_json.dumps({"t": tensor}))["t"]
    assert back.dtype == dtype and back.shape == tensor.shape and torch.equal(back, tensor)


def test_json_is_strict_and_infinities_survive():
    content = state_json.dumps({"best": math.inf, "worst": -math.inf, "none": math.nan})
    json.loads(content, parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
    back = state_json.loads(content)
    assert back["best"] == math.inf and back["worst"] == -math.inf and math.isnan(back["none"])


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"a": [1, object()]}, r"state.a\[1\]: a value of type object"),
        ({"a": {3: 1}}, "state.a: key 3"),
        ({"__tuple__": [1]}, "key '__tuple__'"),
        ({"a": {1, 2}}, "type set"),
    ],
)
def test_what_cannot_come_back_is_refused_by_name(state, problem):
    with pytest.raises(ValueError, match=problem):
        state_json.dumps(state)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b'{"__bytes__": "?"}',
        b'{"__tensor__": ["F32", [3], "AAAA"]}',
        b'{"__tensor__": ["PICKLE", [1], "AAAAAA=="]}',
        b'{"__array__": ["<f4", [2], "AAAAAA=="]}',
        b'{"__array__": ["|O", [1], "AAAAAAAAAAA="]}',
        b'{"__tuple__": 3}',
    ],
)
def test_damaged_content_is_a_value_error(content):
    with pytest.raises(ValueError):
        state_json.loads(content)
