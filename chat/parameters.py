"""What a person may set for a conversation's answers; sent to the model server as it stands here."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from infini.errors import Invalid

STOPS_MOST, STOP_MOST_CHARS = 4, 100


@dataclass(frozen=True)
class Range:
    """A number with its bounds; ``whole`` has no fraction."""

    least: float
    most: float
    whole: bool = False

    def problem(self, value: Any) -> str:
        """A sentence, empty when ``value`` fits."""
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return _("This must be a whole number.") if self.whole else _("This must be a number.")
        if not self.least <= value <= self.most:
            return _("This must be from {least} to {most}.").format(least=f"{self.least:g}", most=f"{self.most:g}")
        return ""


NUMBERS = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1),
    "max_tokens": Range(1, 1_000_000, whole=True),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "seed": Range(0, 2**31 - 1, whole=True),
}


def checked(given: Any) -> dict[str, Any]:
    """Only what is set; raises Invalid with a sentence per field for what is unknown or out of bounds."""
    if not isinstance(given, dict):
        raise Invalid(_("parameters must be an object."), fields={"parameters": [_("Not an object.")]})
    kept = {name: value for name, value in given.items() if value is not None and value != ""}
    problems = {f"parameters.{name}": [text] for name, value in kept.items() if (text := _problem(name, value))}
    if problems:
        name, texts = next(iter(problems.items()))
        raise Invalid(f"{name}: {texts[0]}", fields=problems)
    return kept


def _problem(name: str, value: Any) -> str:
    if name in NUMBERS:
        return NUMBERS[name].problem(value)
    if name != "stop":
        return _("There is no such parameter.")
    texts = value if isinstance(value, list) else [None]
    if len(texts) > STOPS_MOST or not all(isinstance(text, str) and 0 < len(text) <= STOP_MOST_CHARS for text in texts):
        return _("This must be a list of at most {n} short texts.").format(n=STOPS_MOST)
    return ""
