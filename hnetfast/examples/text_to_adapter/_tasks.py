"""Changes of texts, and how people say what they want: an edit of the letters, in a style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from random import Random

_VOWELS = "aeiou"


def _shift(distance: int) -> Callable[[str], str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return lambda text: text.translate(str.maketrans(letters, letters[distance:] + letters[:distance]))


@dataclass(frozen=True)
class Change:
    """A change and the ways to ask for it.

    Attributes:
        apply: The change.
        seen: Phrases that training uses.
        held_out: Phrases for tests, which end with other words than the ones that are seen.
    """

    apply: Callable[[str], str]
    seen: tuple[str, ...]
    held_out: tuple[str, ...]


EDITS: dict[str, Change] = {
    "copy": Change(
        lambda text: text,
        (
            "repeat the text as it is",
            "copy the input",
            "echo the phrase unchanged",
            "say it again",
            "write the same text again",
            "leave everything as it was",
        ),
        ("return the text unaltered", "give back exactly what was given", "show the text as you got it"),
    ),
    "reverse": Change(
        lambda text: text[::-1],
        (
            "reverse the text",
            "spell the word backwards",
            "write the letters from last to first",
            "turn the order of the characters around",
            "mirror the input",
            "write the text in reverse",
            "the last letter first, the first one last",
            "invert the order of the letters",
            "read it from the end to the start",
        ),
        (
            "flip the text so that it reads from right to left",
            "print the letters in reverse order",
            "go through the word from back to front",
        ),
    ),
    "no vowels": Change(
        lambda text: "".join(c for c in text if c not in _VOWELS),
        (
            "remove the vowels",
            "leave out all vowels",
            "delete every a, e, i, o and u",
            "keep the consonants only",
            "drop each vowel",
            "omit the vowels",
            "write it without vowels",
            "strip away a, e, i, o, u",
            "erase all the vowels in the text",
        ),
        ("strip the vowels from the text", "omit any vowel", "eliminate a, e, i, o and u"),
    ),
    "only vowels": Change(
        lambda text: "".join(c for c in text if c in _VOWELS),
        (
            "remove the consonants",
            "keep nothing but the vowels",
            "extract the vowels",
            "list the vowels that occur",
            "drop each consonant",
            "omit the consonants",
            "write only the vowels",
            "just the vowels, please",
            "show the vowels and nothing else",
        ),
        ("show just the vowels of the text", "omit any consonant", "pick out the vowels"),
    ),
    "hide vowels": Change(
        lambda text: "".join("*" if c in _VOWELS else c for c in text),
        (
            "replace the vowels by stars",
            "put an asterisk in place of every vowel",
            "mask all vowels with *",
            "censor the vowels",
            "substitute a star for each a, e, i, o and u",
            "turn each vowel into *",
            "hide the vowels with asterisks",
            "write stars where vowels are",
            "swap all vowels for an asterisk",
        ),
        ("turn vowels into asterisks", "hide each vowel behind a star", "cover all the vowels with stars"),
    ),
    "double": Change(
        lambda text: "".join(2 * c for c in text),
        (
            "double every letter",
            "write each character twice",
            "duplicate all letters",
            "make two of each letter",
            "repeat every single character once",
            "type every letter two times",
            "each letter appears doubled",
            "print the letters twice each, as in aabb",
            "stutter: two copies of every character",
        ),
        (
            "type all the letters two times each",
            "print every letter doubled",
            "every letter should appear two times",
        ),
    ),
    "twice": Change(
        lambda text: f"{text} {text}",
        (
            "say the whole text twice",
            "repeat the entire phrase a second time",
            "write the words two times in a row",
            "give the text and then the same text again",
            "duplicate the complete input",
            "state the text two times",
            "print the whole text again after itself",
            "repeat the full input, separated by a space",
            "the same phrase, then once more",
        ),
        (
            "state the full phrase two times",
            "print the whole input twice, with a space between",
            "repeat everything after a space",
        ),
    ),
    "initials": Change(
        lambda text: "".join(word[0] for word in text.split()),
        (
            "give the initials",
            "keep the first letter of each word",
            "abbreviate every word to its first letter",
            "make an acronym",
            "shorten the words to their initial letters",
            "write the initial letters only",
            "only the first letter of every word",
            "reduce each word to the letter it begins with",
            "turn the phrase into its initials",
        ),
        (
            "write only the letter that each word begins with",
            "reduce the phrase to its initials",
            "take the first letter from each word",
        ),
    ),
    "no first": Change(
        lambda text: text[1:],
        (
            "drop the first letter",
            "remove the initial character of the text",
            "cut off the beginning letter",
            "skip the first character",
            "leave the leading letter away",
            "delete the first letter",
            "omit the letter at the beginning",
            "write the text without its first letter",
            "everything except the first character",
        ),
        (
            "delete the letter at the start",
            "omit the first character of the input",
            "throw away the first letter",
        ),
    ),
    "no last": Change(
        lambda text: text[:-1],
        (
            "drop the last letter",
            "remove the final character of the text",
            "cut off the ending letter",
            "write all but the last character",
            "leave the trailing letter away",
            "delete the last letter",
            "omit the letter at the end",
            "write the text without its last letter",
            "everything except the last character",
        ),
        (
            "delete the letter at the end",
            "omit the final character of the input",
            "throw away the last letter",
        ),
    ),
    "sort": Change(
        lambda text: "".join(sorted(text.replace(" ", ""))),
        (
            "sort the letters",
            "put the letters in alphabetical order",
            "arrange the characters alphabetically",
            "order the letters from a to z",
            "list the letters as in the alphabet",
            "alphabetise the letters",
            "bring the characters into alphabetical order",
            "sort the characters from a to z",
            "rearrange the letters by the alphabet",
        ),
        (
            "bring the letters into the order of the alphabet",
            "alphabetise the characters",
            "order all the letters alphabetically",
        ),
    ),
    "spell": Change(
        lambda text: "-".join(text.replace(" ", "")),
        (
            "spell it with dashes",
            "put a hyphen between the letters",
            "join the characters by hyphens",
            "separate all letters by dashes",
            "insert a dash after each letter but the last",
            "write dashes between the letters",
            "hyphenate every letter",
            "the letters divided by hyphens, a-b-c",
            "place a dash between all characters",
        ),
        (
            "write hyphens between the characters",
            "divide the letters by dashes",
            "put dashes in between all the letters",
        ),
    ),
    "underscores": Change(
        lambda text: text.replace(" ", "_"),
        (
            "replace spaces by underscores",
            "write it in snake case",
            "put an underscore between the words",
            "join the words by underscores",
            "turn blanks into underscores",
            "substitute underscores for spaces",
            "use _ instead of a space",
            "connect the words by an underscore",
            "change each blank to _",
        ),
        (
            "substitute an underscore for each space",
            "connect words with underscores",
            "use underscores where there are spaces",
        ),
    ),
    "next letter": Change(
        _shift(1),
        (
            "replace every letter by the next one of the alphabet",
            "shift the letters by one",
            "use a Caesar cipher with a shift of one",
            "move each letter one place forward in the alphabet",
            "encode with the letter that follows, b for a",
            "rotate every letter by one place of the alphabet",
            "write the following letter for each letter",
            "advance all letters by one",
            "each letter becomes its successor",
        ),
        (
            "write the following letter of the alphabet for each one",
            "rotate the alphabet by one place",
            "replace each letter with its successor in the alphabet",
        ),
    ),
    "letter before": Change(
        _shift(-1),
        (
            "replace every letter by the one before it in the alphabet",
            "shift the letters back by one",
            "use a Caesar cipher with a shift of minus one",
            "move each letter one place backward in the alphabet",
            "encode with the letter that precedes, a for b",
            "rotate every letter back by one place of the alphabet",
            "write the preceding letter for each letter",
            "step all letters back by one",
            "each letter becomes its predecessor",
        ),
        (
            "write the preceding letter of the alphabet for each one",
            "rotate the alphabet back by one place",
            "replace each letter with its predecessor in the alphabet",
        ),
    ),
}
"""What is done to the letters."""

STYLES: dict[str, Change] = {
    "plain": Change(lambda text: text, ("",), ("",)),
    "upper": Change(
        str.upper,
        (
            "in upper case",
            "in capital letters",
            "in capitals only",
            "shouting, with all letters uppercase",
            "with capslock on",
            "all in capital letters",
            "in uppercase",
            "using capitals everywhere",
        ),
        ("using uppercase letters", "all in caps", "with every letter capitalised"),
    ),
    "title": Change(
        str.title,
        (
            "in title case",
            "with a capital at the beginning of each word",
            "with each word capitalised",
            "like a headline, first letters large",
            "with the first letter of every word in upper case",
            "as in a title, each word starting with a capital",
            "starting words with capital letters",
            "in the style of a heading",
        ),
        (
            "as a title",
            "starting every word with a capital letter",
            "making the first letter of each word large",
        ),
    ),
    "brackets": Change(
        lambda text: f"[{text}]",
        (
            "in square brackets",
            "between brackets",
            "enclosed by [ and ]",
            "with brackets around it",
            "surrounded by square brackets",
            "wrapped in [ ]",
            "inside square brackets",
            "put into brackets",
        ),
        ("wrapped in brackets", "inside of [ ]", "with [ before it and ] after it"),
    ),
    "exclaimed": Change(
        lambda text: f"{text}!",
        (
            "with an exclamation mark",
            "and end with !",
            "excitedly, with an exclamation mark behind it",
            "followed by an exclamation point",
            "adding ! at the end",
            "finishing with !",
            "with ! behind it",
            "ending in an exclamation mark",
        ),
        ("with ! as the last character", "finishing with an exclamation mark", "and put ! behind it"),
    ),
}
"""How the result is written."""

HELD_OUT = (
    ("no vowels", "upper"),
    ("double", "upper"),
    ("reverse", "brackets"),
    ("hide vowels", "brackets"),
    ("no first", "exclaimed"),
    ("next letter", "exclaimed"),
    ("underscores", "upper"),
    ("no last", "title"),
)
"""Edits in styles that training never combines."""
WITH_STYLES = tuple(edit for edit in EDITS if edit not in ("copy", "twice", "spell", "sort"))
"""Edits that are also asked for in other styles than plain."""


@dataclass(frozen=True)
class Task:
    """An edit in a style.

    Attributes:
        edit: Key of :data:`EDITS`.
        style: Key of :data:`STYLES`.
    """

    edit: str
    style: str

    @property
    def name(self) -> str:
        """What it is called in tables."""
        if self.style == "plain":
            return self.edit
        return self.style if self.edit == "copy" else f"{self.edit}, {self.style}"

    def answer(self, text: str) -> str:
        """Change a text."""
        return STYLES[self.style].apply(EDITS[self.edit].apply(text))

    def descriptions(self, held_out: bool = False, limit: int = 16) -> list[str]:
        """Ways to ask for it.

        Args:
            held_out: Whether to use the phrases for tests.
            limit: How many to return at most.
        """
        edit, style = EDITS[self.edit], STYLES[self.style]
        edits, styles = (edit.held_out, style.held_out) if held_out else (edit.seen, style.seen)
        if self.style != "plain" and self.edit == "copy":
            edits = ("write it",) if held_out else ("write the text", "give the input")
        found = [f"{first} {second}".strip() for first, second in product(edits, styles)]
        Random(self.name).shuffle(found)
        return [text[0].upper() + text[1:] for text in found[:limit]]


def seen_tasks() -> list[Task]:
    """What training uses: all edits, all styles, and combinations of them that are not held out."""
    tasks = [Task(edit, "plain") for edit in EDITS if edit != "copy"]
    tasks += [Task("copy", style) for style in STYLES if style != "plain"]
    combined = [(edit, style) for edit in WITH_STYLES for style in STYLES]
    tasks += [
        Task(edit, style) for edit, style in combined if style != "plain" and (edit, style) not in HELD_OUT
    ]
    return tasks


def held_out_tasks() -> list[Task]:
    """What training never sees."""
    return [Task(*pair) for pair in HELD_OUT]
