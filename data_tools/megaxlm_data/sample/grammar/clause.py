"""What the realizers of several languages share: joining words and closing a sentence."""


def sentence(*phrases: str, stop: str = ".") -> str:
    """The phrases that are not empty, spaced, with a capital and a full stop."""
    text = " ".join(filter(None, phrases))
    return text[0].upper() + text[1:] + stop
