"""How many sentences each language gives to tokenizer training.

Languages are drawn with p ~ bytes^alpha (Conneau and Lample 2019, section 3.1), so that a small
alpha lifts small languages: without it a vocabulary holds little but the largest ones.
"""

from __future__ import annotations

from collections.abc import Mapping


def sampling_quota(
    bytes_by_lang: Mapping[str, int],
    alpha: float,
    total_sentences: int,
    available: Mapping[str, int] | None = None,
    factors: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Shares `total_sentences` among languages in proportion to factor x bytes^alpha.

    Args:
        bytes_by_lang: UTF-8 bytes of text per language; a language without text gets none.
        alpha: 1 keeps the corpus's own shares, 0 gives every language the same.
        total_sentences: What the quotas add up to (less if `available` holds less).
        available: Sentences that each language has; what one cannot give goes to the others in
            their proportion.
        factors: Lifts a language above, or holds it below, what alpha gives it; 1 where absent.

    Returns:
        Sentences per language, in the order of `bytes_by_lang`. Fractions go to the largest
        remainders, so that the sum is exact; a tie goes to the language named first.
    """
    factors = factors or {}
    weights = {
        lang: factors.get(lang, 1.0) * size**alpha for lang, size in bytes_by_lang.items() if size
    }
    quota = dict.fromkeys(bytes_by_lang, 0)
    if available is not None:
        total_sentences = min(total_sentences, sum(available.get(lang, 0) for lang in weights))
        # a language that has less than its share gives all, which raises the others' share: again
        short = True
        while short:
            scale = total_sentences / (sum(weights.values()) or 1.0)
            short = False
            for lang, weight in list(weights.items()):
                if available.get(lang, 0) <= weight * scale:
                    quota[lang] = available.get(lang, 0)
                    total_sentences -= quota[lang]
                    del weights[lang]
                    short = True
    if not weights:
        return quota
    scale = total_sentences / sum(weights.values())
    shares = {lang: weight * scale for lang, weight in weights.items()}
    quota |= {lang: int(share) for lang, share in shares.items()}
    left = total_sentences - sum(quota[lang] for lang in shares)
    by_remainder = sorted(shares, key=lambda lang: quota[lang] - shares[lang])
    for lang in by_remainder[:left]:
        quota[lang] += 1
    return quota
