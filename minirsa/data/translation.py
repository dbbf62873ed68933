"""The translation task of Part I: dates in words, English or Korean, into ISO form. Exactly one answer is right.

    march the twenty third , nineteen eighty four              -> 1 9 8 4 - 0 3 - 2 3
    이 천 사 년 유 월 십 일 그 리 고 천 구 백 년 일 월 일 일   -> 2 0 0 4 - 0 6 - 1 0 _ 1 9 0 0 - 0 1 - 0 1

    (seed, i) -> how many dates, which, in which wording -> source tokens + target tokens
    list of items -> batch: source (B, n), source_lengths (B,), target (B, m) = BOS ... EOS, padded with PAD

English is written in words, in six orders: day, month and year must be *found*, and most orders have to be turned
round. Korean is written in syllables, always year, month, day: the answer follows the source from left to right.
Its irregular months are kept (유월 June, 시월 October). Several dates in one line make long inputs. The answer has one
token a character; a blank stands between dates.

Every date from 1800 to 2099 is as likely as any other. Streams of different seeds share no random numbers; equal
lines can still come up by chance. A given line of one date is among N other lines of one date with probability of
about N / (DATES * LINES_PER_DATE[language]), its *date* with about N / DATES, and two dates together with practically
none. What is tested, then, is mostly new dates made of known words.

Book: chapter 1, "The task"; chapters 3 and 4.
"""

from __future__ import annotations

import calendar
import operator
import unicodedata
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "BOS",
    "DATES",
    "EOS",
    "LANGUAGES",
    "LINES_PER_DATE",
    "PAD",
    "SOURCE",
    "TARGET",
    "Batch",
    "DateSet",
    "Vocabulary",
    "romanize",
]

PAD, BOS, EOS = 0, 1, 2
LANGUAGES = ("english", "korean", "both")
FIRST_YEAR, LAST_YEAR = 1800, 2099
DATES = sum(366 if calendar.isleap(year) else 365 for year in range(FIRST_YEAR, LAST_YEAR + 1))
"""How many dates there are: 109,573."""


def _words(text: str) -> list[str]:
    return text.split()


MONTHS = _words("january february march april may june july august september october november december")
ONES = _words("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen")
ONES += _words("seventeen eighteen nineteen")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth")
ORDINALS += _words("fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth")
ROUND_ORDINALS = {20: "twentieth", 30: "thirtieth"}
ORDERS = (
    "the {day} of {month} {year}",
    "the {day} of {month} in the year {year}",
    "{day} {month} {year}",
    "{month} the {day} , {year}",
    "{month} {day} {year}",
    "in {year} on the {day} of {month}",
)
NUMERALS = _words("영 일 이 삼 사 오 육 칠 팔 구")
KOREAN_MONTHS = {6: "유", 10: "시"}
KOREAN_THEN = ("그", "리", "고")
LINES_PER_DATE = {"english": 2 * len(ORDERS), "korean": 2}
"""Wordings of one date: English says a year in two ways (1800, 1900 and 2000 in one) and a date in six orders; Korean
may say 서기 (AD) first."""

Part = tuple[int, str] | None  # which date of the line, and "year", "month" or "day"; None for what belongs to none


class Vocabulary:
    """Tokens and their numbers; 0, 1, 2 are `PAD`, `BOS` and `EOS`.

    Raises ValueError for a token given twice, a token that `encode` does not know, and a number that stands for none.
    """

    def __init__(self, tokens: Sequence[str]):
        self.tokens = ("<pad>", "<bos>", "<eos>", *tokens)
        self._numbers = {token: number for number, token in enumerate(self.tokens)}
        if len(self._numbers) < len(self.tokens):
            raise ValueError("expected every token once, got some of them twice")

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Numbers of the tokens. A bare string is refused: its characters are rarely what is meant."""
        if isinstance(tokens, str):
            raise ValueError(f"expected a list of tokens, got the string {tokens!r}")
        unknown = [token for token in tokens if token not in self._numbers]
        if unknown:
            raise ValueError(f"expected tokens of the vocabulary, got {unknown[0]!r}")
        return [self._numbers[token] for token in tokens]

    def decode(self, numbers: Sequence[int] | Tensor) -> list[str]:
        """Tokens up to the first EOS, without PAD and BOS."""
        if isinstance(numbers, Tensor):
            if numbers.ndim != 1 or numbers.is_floating_point():
                raise ValueError(f"expected one row of whole numbers, got {numbers.dtype} {tuple(numbers.shape)}")
            numbers = numbers.tolist()
        tokens: list[str] = []
        for number in numbers:
            if number == EOS:
                break
            if not 0 <= number < len(self.tokens):
                raise ValueError(f"expected numbers from 0 to {len(self.tokens) - 1}, got {number}")
            if number not in (PAD, BOS):
                tokens.append(self.tokens[number])
        return tokens


def _unique(tokens: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(tokens))


_ENGLISH = [*ONES[1:], *TENS, *ORDINALS, *ROUND_ORDINALS.values(), *MONTHS]
_ENGLISH += _words("the of , in on year hundred oh thousand and then")
_KOREAN = [*NUMERALS[1:], "십", "백", "천", "서", "기", "년", *KOREAN_MONTHS.values(), "월", *KOREAN_THEN]

SOURCE = Vocabulary(_unique([*_ENGLISH, *_KOREAN]))
"""English words and Korean syllables, one vocabulary."""

TARGET = Vocabulary([*"0123456789", "-", " "])
"""The characters of ISO dates."""


class Batch(NamedTuple):
    """source (B, n) and target (B, m) int64, padded with PAD; source_lengths (B,); target is BOS ... EOS."""

    source: Tensor
    source_lengths: Tensor
    target: Tensor


class DateSet:
    """`length` lines of dates; item i depends on (seed, i), the language and the range of dates a line.

    language: "english", "korean" or "both" (either, line by line).
    dates: fewest and most dates in a line; each number is as likely.
    `set[i] -> (source tokens, target tokens)`; `set.batch(indices) -> Batch`. Use different seeds for training and
    testing. Random numbers come from Python's generator, which is the same in every version and on every machine.

    Raises ValueError for a negative length or seed, an unknown language or an impossible range, IndexError for an
    index outside the set, TypeError for a length, seed or index that is no whole number.
    """

    def __init__(
        self, length: int, *, seed: int = 0, language: str = "english", dates: tuple[int, int] | Sequence[int] = (1, 2)
    ):
        length, seed = operator.index(length), operator.index(seed)  # 1.0 or True would make streams of their own
        if length < 0 or seed < 0:
            raise ValueError(f"expected a length and a seed of at least 0, got {length} and {seed}")
        if language not in LANGUAGES:
            raise ValueError(f"expected one of {', '.join(LANGUAGES)} as language, got {language!r}")
        if not isinstance(dates, Sequence) or len(dates) != 2 or not 1 <= dates[0] <= dates[1]:
            raise ValueError(f"expected the fewest and the most dates in a line, such as (1, 2), got {dates!r}")
        self.length = length
        self.seed = seed
        self.language = language
        self.dates = (int(dates[0]), int(dates[1]))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[list[str], list[str]]:
        source, target = self._line(index)
        return [token for token, _ in source], [token for token, _ in target]

    def alignment(self, index: int) -> Tensor:
        """Which source tokens spell what a target token says: bool (m, n) for item `index`, EOS not included.

        Row t holds the words of the year (of the month, of the day) for each character of the year (...) of the same
        date. The rows of hyphens and blanks are empty, as no word stands for them.
        """
        source, target = self._line(index)
        return torch.tensor([[part is not None and part == other for _, other in source] for _, part in target])

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Some items as tensors: see `Batch`. Raises ValueError for no items at all."""
        items = [self[i] for i in indices]
        if not items:
            raise ValueError("expected at least one index, got none")
        source = [torch.tensor(SOURCE.encode(tokens)) for tokens, _ in items]
        target = [torch.tensor([BOS, *TARGET.encode(tokens), EOS]) for _, tokens in items]
        pad = torch.nn.utils.rnn.pad_sequence
        return Batch(
            source=pad(source, batch_first=True, padding_value=PAD),
            source_lengths=torch.tensor([len(tokens) for tokens in source]),
            target=pad(target, batch_first=True, padding_value=PAD),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """The set in order, `size` items at a time; what is left over at the end is left out."""
        if size < 1:
            raise ValueError(f"expected batches of at least one item, got {size}")
        for start in range(0, self.length - size + 1, size):
            yield self.batch(range(start, start + size))

    def _line(self, index: int) -> tuple[list[tuple[str, Part]], list[tuple[str, Part]]]:
        index = operator.index(index)
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} in a set of {self.length} items")
        draw = _Draw(f"{self.seed}/{index % self.length}")
        fewest, most = self.dates
        korean = draw.below(2) == 1
        if self.language != "both":
            korean = self.language == "korean"
        source: list[tuple[str, Part]] = []
        target: list[tuple[str, Part]] = []
        for number in range(fewest + draw.below(most - fewest + 1)):
            date = draw.date()
            if number:
                source += [(token, None) for token in (KOREAN_THEN if korean else ("then",))]
                target.append((" ", None))
            words = _korean(*date, draw) if korean else _english(*date, draw)
            source += [(token, part and (number, part)) for token, part in words]
            target += [(character, part and (number, part)) for character, part in _iso(*date)]
        return source, target


class _Draw:
    """Whole numbers and dates from one stream. `random()` is the part of Python's generator that never changes."""

    def __init__(self, seed: str):
        self._random = Random(seed).random

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def date(self) -> tuple[int, int, int]:
        day = self.below(DATES)
        year = FIRST_YEAR
        while day >= (length := 366 if calendar.isleap(year) else 365):
            day -= length
            year += 1
        month = 1
        while day >= (length := calendar.monthrange(year, month)[1]):
            day -= length
            month += 1
        return year, month, day + 1


def _iso(year: int, month: int, day: int) -> list[tuple[str, str | None]]:
    parts = (f"{year:04d}", "year"), ("-", None), (f"{month:02d}", "month"), ("-", None), (f"{day:02d}", "day")
    return [(character, part) for text, part in parts for character in text]


def _english(year: int, month: int, day: int, draw: _Draw) -> list[tuple[str, str | None]]:
    words = {"year": _english_year(year, draw), "month": MONTHS[month - 1], "day": _english_day(day)}
    line: list[tuple[str, str | None]] = []
    for piece in ORDERS[draw.below(len(ORDERS))].split():
        part = piece[1:-1] if piece.startswith("{") else None
        line += [(word, part) for word in (words[part] if part else piece).split()]
    return line


def _english_year(year: int, draw: _Draw) -> str:
    """1905: nineteen oh five | nineteen hundred and five; 2012: twenty twelve | two thousand and twelve."""
    century, rest = divmod(year, 100)
    short = draw.below(2) == 1
    if short and rest:
        return f"{_english_number(century)} " + (f"oh {ONES[rest]}" if rest < 10 else _english_number(rest))
    full = "two thousand" if century == 20 else f"{_english_number(century)} hundred"
    return f"{full} and {_english_number(rest)}" if rest else full


def _english_number(number: int) -> str:
    """1 to 99 in words."""
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f" {ONES[ones]}" if ones else "")


def _english_day(day: int) -> str:
    """1 to 31 in ordinals."""
    if day in ROUND_ORDINALS:
        return ROUND_ORDINALS[day]
    tens, ones = divmod(day, 10)
    return ORDINALS[day - 1] if day < 20 else f"{TENS[tens - 2]} {ORDINALS[ones - 1]}"


def _korean(year: int, month: int, day: int, draw: _Draw) -> list[tuple[str, str | None]]:
    era = ["서", "기"] if draw.below(2) == 1 else []
    spoken_month = [KOREAN_MONTHS[month]] if month in KOREAN_MONTHS else _korean_number(month)
    parts = (_korean_number(year), "year"), (spoken_month, "month"), (_korean_number(day), "day")
    line: list[tuple[str, str | None]] = [(token, None) for token in era]
    for (tokens, part), unit in zip(parts, "년월일"):
        line += [(token, part) for token in [*tokens, unit]]
    return line


def _korean_number(number: int) -> list[str]:
    """1 to 9,999 in Sino-Korean numerals, one a syllable; no 일 (one) before ten, hundred, thousand."""
    syllables: list[str] = []
    for unit, name in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
        digit, number = divmod(number, unit)
        if digit > 1 or (digit == 1 and unit == 1):
            syllables.append(NUMERALS[digit])
        if digit and name:
            syllables.append(name)
    return syllables


_INITIALS = ("g", "kk", "n", "d", "tt", "r", "m", "b", "pp", "s", "ss", "", "j", "jj", "ch", "k", "t", "p", "h")
_VOWELS = ("a", "ae", "ya", "yae", "eo", "e", "yeo", "ye", "o", "wa", "wae", "oe", "yo", "u", "wo", "we", "wi", "yu")
_VOWELS += ("eu", "ui", "i")
_FINALS = ("", "k", "k", "k", "n", "n", "n", "t", "l", "k", "m", "l", "l", "l", "p", "l", "m", "p", "p", "t", "t")
_FINALS += ("ng", "t", "t", "k", "t", "p", "t")


def romanize(token: str) -> str:
    """Hangul in Latin letters, everything else as it is: "유월" -> "yuwol".

    Every syllable by itself, in the letters of the Revised Romanization of Korean (2000). Its rules for sounds that
    change between syllables are left out: 십일 gives "sipil", not "sibil". For figures, whose font has no Hangul.
    """
    letters = []
    for character in unicodedata.normalize("NFC", token):
        number = ord(character) - 0xAC00
        if 0 <= number < 11172:
            initial, rest = divmod(number, 21 * 28)
            vowel, final = divmod(rest, 28)
            character = _INITIALS[initial] + _VOWELS[vowel] + _FINALS[final]
        letters.append(character)
    return "".join(letters)
