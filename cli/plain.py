"""Mathematics in plain ASCII, for terminals and files that know no other letters."""

from __future__ import annotations

import re
import unicodedata

PAIRS = "⟨ < ⟩ > ⌊ floor( ⌋ ) Π prod "
PAIRS += "∂ d Σ sum √ sqrt ∞ infinity · * × x ± +- − - – - — - ← <- → -> ≤ <= ≥ >= ≠ != ≈ ~ ∈ in ᵀ ^T ‘ ' ’ ' “ \" ” \""
SUBSTITUTES = dict(zip(PAIRS.split()[::2], PAIRS.split()[1::2], strict=True)) | {"\u0302": "_hat", "\u0304": "_bar"}


def in_ascii(value):
    """Return text, or a list or dictionary of texts, in plain ASCII: Σ as sum, ∂ as d, θ as theta, x² as x^2."""
    if isinstance(value, dict):
        return {key: in_ascii(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_ascii(item) for item in value]
    if not isinstance(value, str) or value.isascii():
        return value
    text = re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁱⁿ]+", lambda found: "^" + unicodedata.normalize("NFKC", found[0]), value)
    text = re.sub(r"√(\w+)", r"sqrt(\1)", text)
    text = re.sub(r"(?<=[^\W\d_∂d])(?=[α-ω])|(?<=[α-ω])(?=[A-Za-zα-ω])", " ", text)  # αg is alpha g, but dθ is dtheta
    return "".join(_letter_in_ascii(letter) for letter in text)


def _letter_in_ascii(letter: str) -> str:
    if letter.isascii():
        return letter
    if letter in SUBSTITUTES:
        return SUBSTITUTES[letter]
    name = unicodedata.name(letter, "?")
    if name.startswith("GREEK"):
        word = name.split(" WITH ")[0].split()[-1]
        return word.capitalize() if "CAPITAL" in name else word.lower()
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"
