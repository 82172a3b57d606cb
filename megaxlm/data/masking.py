"""Which tokens are predicted, and what the model sees in their place.

Every choice is a hash of (seed, row, column), so the row at a given position of the stream has
the same mask on any number of ranks and after any resume. Every row has exactly
round(mlm_probability * seq_len) targets: with a constant number, the loss of every micro-batch
weighs the same and all shapes are static.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from megaxlm.config.pretrain import MaskingConfig
from megaxlm.data.order import Int64Array, bounded, derive_key, hash64
from megaxlm.data.special_tokens import NUM_LEADING_SPECIAL, PAD, mask_id
from megaxlm.errors import UserError

Float32Array: TypeAlias = NDArray[np.float32]


def targets_per_row(masking: MaskingConfig, seq_len: int) -> int:
    """Returns how many tokens of each row are predicted.

    Raises:
        UserError: There would be none.
    """
    count = round(masking.mlm_probability * seq_len)
    if count == 0:
        raise UserError(
            f"masking.mlm_probability {masking.mlm_probability} of data.seq_len {seq_len} tokens "
            "leaves nothing to predict; raise one of them"
        )
    return count


@dataclass(frozen=True)
class MaskedRows:
    """Rows as the model sees them, and what it has to find."""

    tokens: Int64Array  # (rows, seq_len)
    target_index: Int64Array  # (targets,) into the flattened tokens, ascending
    targets: Int64Array  # (targets,) the original ids
    target_weight: Float32Array  # (targets,) 1, or 0 for a target that could not be placed


class Masker:
    """BERT's rule (Devlin et al., 2019, section 3.1) on a fixed number of tokens a row.

    Targets are drawn without replacement from the tokens that are not special. Most of them
    become `<mask>`, some a random piece of the vocabulary (which may happen to be the original),
    the rest stay. A row that padding fills in part has as many targets as its own tokens warrant:
    masked any denser, it would be a harder task than a full row. The remaining targets stay as
    they are, with weight 0, as they do where a row has too few tokens that are not special.
    """

    def __init__(self, masking: MaskingConfig, seq_len: int, vocab_size: int, seed: int) -> None:
        """Fixes shapes and keys.

        Args:
            masking: Shares of the rule.
            seq_len: Tokens a row.
            vocab_size: Size of the vocabulary; `<mask>` is its last id.
            seed: The seed of the run.

        Raises:
            UserError: A row would have no target.
        """
        self.targets_per_row = targets_per_row(masking, seq_len)
        self._seq_len = seq_len
        self._probability = masking.mlm_probability
        self._mask_id = mask_id(vocab_size)
        self._column_bits = (seq_len - 1).bit_length()
        self._mask_below = round(masking.mask_token_share * 2**32)
        self._random_below = self._mask_below + round(masking.random_token_share * 2**32)
        self._choice_key, self._action_key, self._piece_key = (
            derive_key(seed, "mask", purpose) for purpose in ("choice", "action", "piece")
        )

    def __call__(
        self,
        tokens: Int64Array,  # (rows, seq_len)
        row_ids: Int64Array,  # (rows,) positions in the stream
    ) -> MaskedRows:
        """Masks rows; the input is left as it is."""
        columns = np.arange(self._seq_len)
        places = row_ids[:, None] * self._seq_len + columns  # (rows, seq_len)
        maskable = (tokens >= NUM_LEADING_SPECIAL) & (tokens != self._mask_id)
        # The smallest scores are chosen. The column in the low bits makes scores distinct, so
        # that the choice does not depend on how NumPy breaks ties; the top bit keeps special
        # tokens behind all others.
        scores = hash64(self._choice_key, places) >> np.uint64(1 + self._column_bits)
        scores[~maskable] = 1 << (63 - self._column_bits)
        scores = (scores << np.uint64(self._column_bits)) | columns.astype(np.uint64)
        count = self.targets_per_row
        smallest = np.partition(scores, count - 1, axis=1)[:, count - 1 : count]
        target_index = np.flatnonzero(scores <= smallest)
        targets = tokens.reshape(-1)[target_index]
        weight = maskable.reshape(-1)[target_index]
        warranted = np.rint(self._probability * np.count_nonzero(tokens != PAD, axis=1))
        if (warranted < count).any():
            chosen = scores.reshape(-1)[target_index].reshape(-1, count)
            rank = chosen.argsort(axis=1).argsort(axis=1)  # (rows, count), 0 the first choice
            weight &= (rank < np.maximum(1, warranted)[:, None]).reshape(-1)
        masked = tokens.copy()
        masked.reshape(-1)[target_index] = np.where(
            weight, self._replacements(places.reshape(-1)[target_index], targets), targets
        )
        return MaskedRows(masked, target_index, targets, weight.astype(np.float32))

    def _replacements(self, places: Int64Array, originals: Int64Array) -> Int64Array:
        action = hash64(self._action_key, places) >> np.uint64(32)
        pieces = NUM_LEADING_SPECIAL + bounded(
            hash64(self._piece_key, places), self._mask_id - NUM_LEADING_SPECIAL
        )
        replaced = np.where(action < self._random_below, pieces, originals)
        return np.where(action < self._mask_below, self._mask_id, replaced)
