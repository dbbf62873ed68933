"""The date task: one right answer to every line, streams that repeat, alignments that say which words matter."""

import calendar
import itertools

import pytest
import torch

from minirsa.data.translation import (
    _ENGLISH,
    _KOREAN,
    BOS,
    DATES,
    EOS,
    LINES_PER_DATE,
    MONTHS,
    ORDERS,
    ORDINALS,
    PAD,
    ROUND_ORDINALS,
    SOURCE,
    TARGET,
    DateSet,
    Vocabulary,
    _english,
    _iso,
    _korean,
    romanize,
)


class Scripted:
    """A stream of draws that were written down."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def below(self, count):
        value = self.draws.pop(0)
        assert value < count
        return value


def words(line):
    return " ".join(word for word, _ in line)


ONES = {word: value for value, word in enumerate(_ENGLISH[:19], 1)}
NUMBER_WORDS = ONES | {word: 10 * value for value, word in enumerate(_ENGLISH[19:27], 2)}
DAY_WORDS = dict(zip(ORDINALS, range(1, 20))) | {word: day for day, word in ROUND_ORDINALS.items()}


def read_english(line):
    """Another reader of an English date: the month is a name, the day ends in an ordinal, what is left is the year."""
    tokens = list(line)
    end = next(place for place, word in enumerate(tokens) if word in DAY_WORDS)
    day = DAY_WORDS[tokens.pop(end)]
    if end and tokens[end - 1] in ("twenty", "thirty"):
        day += NUMBER_WORDS[tokens.pop(end - 1)]
    month = next(value for value, name in enumerate(MONTHS, 1) if name in tokens)
    numbers = [word for word in tokens if word in NUMBER_WORDS or word == "thousand"]
    if numbers[:2] == ["two", "thousand"]:
        return 2000 + sum(NUMBER_WORDS[word] for word in numbers[2:]), month, day
    return 100 * NUMBER_WORDS[numbers[0]] + sum(NUMBER_WORDS[word] for word in numbers[1:]), month, day


def read_korean(line):
    """An independent reader of one Korean date: what stands before 년, 월 and the last 일."""

    def value(syllables):
        total, digit = 0, None
        for syllable in syllables:
            if syllable in "천백십":
                total += (1 if digit is None else digit) * {"천": 1000, "백": 100, "십": 10}[syllable]
                digit = None
            else:
                digit = "영일이삼사오육칠팔구".index(syllable)
        return total + (digit or 0)

    text = "".join(line).removeprefix("서기")
    year, rest = text.split("년")
    month, day = rest.split("월")
    assert day.endswith("일")
    return value(year), {"유": 6, "시": 10}.get(month) or value(month), value(day[:-1])


def test_every_line_of_many_can_be_read_back():
    for language, read in (("english", read_english), ("korean", read_korean)):
        for source, target in (DateSet(3000, seed=3, language=language, dates=(1, 1))[i] for i in range(3000)):
            year, month, day = read(source)
            assert "".join(target) == f"{year:04d}-{month:02d}-{day:02d}"


def test_no_line_has_two_answers():
    """Every wording of every date of some years, decades and centuries: no two dates share a line."""
    answers = {}
    years = [*range(1800, 1824), 1900, 1919, 1920, 1921, *range(1990, 2032), 2090]
    for year, month in itertools.product(years, range(1, 13)):
        for day in range(1, calendar.monthrange(year, month)[1] + 1):
            answer = "".join(character for character, _ in _iso(year, month, day))
            lines = {
                words(_english(year, month, day, Scripted(way, order)))
                for way, order in itertools.product(range(2), range(len(ORDERS)))
            }
            assert len(lines) == LINES_PER_DATE["english"] // (2 if year in (1800, 1900, 2000) else 1)
            lines |= {words(_korean(year, month, day, Scripted(era))) for era in range(2)}
            for line in lines:
                assert answers.setdefault(line, answer) == answer, line


@pytest.mark.parametrize(("date", "draws", "line"), [
    ((1984, 3, 23), (0, 0), "the twenty third of march nineteen hundred and eighty four"),
    ((1984, 3, 23), (1, 3), "march the twenty third , nineteen eighty four"),
    ((2004, 1, 30), (0, 4), "january thirtieth two thousand and four"),
    ((2004, 1, 20), (1, 5), "in twenty oh four on the twentieth of january"),
    ((1900, 12, 1), (1, 1), "the first of december in the year nineteen hundred"),
    ((2000, 5, 12), (1, 2), "twelfth may two thousand"),
])  # fmt: skip
def test_english_dates_by_hand(date, draws, line):
    # draws: for the year, then for the order; the order is drawn second
    assert words(_english(*date, Scripted(*draws))) == line


@pytest.mark.parametrize(("date", "era", "line"), [
    ((2024, 3, 23), 0, "이 천 이 십 사 년 삼 월 이 십 삼 일"),
    ((1984, 6, 10), 0, "천 구 백 팔 십 사 년 유 월 십 일"),
    ((1811, 10, 11), 1, "서 기 천 팔 백 십 일 년 시 월 십 일 일"),
    ((2000, 11, 1), 0, "이 천 년 십 일 월 일 일"),
])  # fmt: skip
def test_korean_dates_by_hand(date, era, line):
    assert words(_korean(*date, Scripted(era))) == line


def test_items_depend_on_seed_and_index_alone():
    one, longer = DateSet(50, seed=4, language="both"), DateSet(500, seed=4, language="both")
    assert [one[i] for i in range(50)] == [longer[i] for i in range(50)]
    assert longer[-1] == longer[499]
    other = DateSet(50, seed=5, language="both")
    assert sum(one[i] == other[i] for i in range(50)) == 0
    # a line written down: the stream is the same on every machine and in every release
    assert " ".join(DateSet(1, seed=0)[0][0]) == (
        "march the twenty sixth , two thousand and forty nine then fourteenth march twenty forty"
    )


def test_dates_are_uniform_over_years_and_months_and_lines_over_their_lengths():
    items = [DateSet(6000, seed=1, language="both", dates=(1, 3))[i] for i in range(6000)]
    lengths = [target.count(" ") + 1 for _, target in items]
    assert all(abs(lengths.count(n) - 2000) < 150 for n in (1, 2, 3))
    dates = [date for _, target in items for date in "".join(target).split(" ")]
    years = [int(date[:4]) for date in dates]
    assert (min(years), max(years)) == (1800, 2099)
    assert all(
        abs(sum(year // 100 == century for year in years) / len(years) - 1 / 3) < 0.02 for century in (18, 19, 20)
    )
    assert all(
        abs(sum(int(date[5:7]) == month for date in dates) / len(dates) - 1 / 12) < 0.012 for month in range(1, 13)
    )
    korean = sum(source[0] in _KOREAN for source, _ in items)
    assert abs(korean - 3000) < 150
    assert sum(366 if calendar.isleap(year) else 365 for year in range(1800, 2100)) == DATES


def test_repeats_between_streams_are_as_rare_as_the_docstring_says():
    train = [DateSet(8000, seed=0, dates=(1, 1))[i] for i in range(8000)]
    test = [DateSet(4000, seed=1, dates=(1, 1))[i] for i in range(4000)]
    lines, answers = ({str(item[k]) for item in train} for k in (0, 1))
    same_line = sum(str(source) in lines for source, _ in test) / 4000
    same_date = sum(str(target) in answers for _, target in test) / 4000
    assert same_line == pytest.approx(8000 / (DATES * LINES_PER_DATE["english"]), abs=0.004)
    assert same_date == pytest.approx(8000 / DATES, abs=0.02)


def test_batch_pads_and_marks_beginning_and_end():
    items = DateSet(20, seed=2, language="both")
    batch = items.batch(range(20))
    assert batch.source.dtype == batch.target.dtype == batch.source_lengths.dtype == torch.int64
    assert batch.source.shape == (20, int(batch.source_lengths.max()))
    for row, length, target, (source_tokens, target_tokens) in zip(*batch, items):
        assert SOURCE.decode(row[:length]) == source_tokens
        assert (row[length:] == PAD).all()
        assert (row[:length] > EOS).all()
        assert target[0] == BOS
        end = len(target_tokens) + 1
        assert target[end] == EOS
        assert (target[end + 1 :] == PAD).all()
        assert TARGET.decode(target) == target_tokens


def test_batches_are_the_set_in_order():
    items = DateSet(10, seed=3)
    parts = list(items.batches(4))
    assert len(parts) == 2
    assert torch.equal(parts[1].target, items.batch([4, 5, 6, 7]).target)


def test_alignment_points_at_the_words_of_the_same_part():
    items = DateSet(60, seed=9, language="both", dates=(2, 2))
    for i in range(60):
        source, target = items[i]
        alignment = items.alignment(i)
        assert alignment.shape == (len(target), len(source))
        rows = alignment.any(1)
        assert [character in "- " for character in target] == (~rows).tolist()
        # the month of the second date: one word in English, two or three syllables in Korean
        spelt = [word for word, used in zip(source, alignment[16]) if used]
        month = int("".join(target[16:18]))
        assert spelt == [MONTHS[month - 1]] if source[0] in _ENGLISH else spelt[-1] == "월"
        assert not (alignment[:10].any(0) & alignment[11:].any(0)).any()


def test_vocabularies():
    assert (PAD, BOS, EOS) == (0, 1, 2)
    assert len(TARGET) == 15
    assert SOURCE.tokens[:3] == TARGET.tokens[:3]
    said = {token for i in range(3000) for token in DateSet(3000, seed=6, language="both")[i][0]}
    assert said == set(SOURCE.tokens[3:]), "words that no line uses, or lines that use other words"
    assert TARGET.decode([BOS, *TARGET.encode(list("18")), PAD, EOS, *TARGET.encode(["-"])]) == ["1", "8"]
    with pytest.raises(ValueError, match="'monday'"):
        SOURCE.encode(["march", "monday"])
    with pytest.raises(ValueError, match="list of tokens"):
        SOURCE.encode("march")
    with pytest.raises(ValueError, match="from 0 to 14, got 15"):
        TARGET.decode([15])
    with pytest.raises(ValueError, match="one row"):
        TARGET.decode(torch.tensor([[4, 5]]))
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a"])


@pytest.mark.parametrize(("change", "reason"), [
    ({"length": -1}, "at least 0"),
    ({"seed": -1}, "at least 0"),
    ({"language": "french"}, "english, korean, both"),
    ({"dates": (0, 1)}, "fewest"),
    ({"dates": (2, 1)}, "fewest"),
    ({"dates": 2}, "fewest"),
])  # fmt: skip
def test_impossible_sets_are_refused(change, reason):
    options = {"length": 3} | change
    with pytest.raises(ValueError, match=reason):
        DateSet(options.pop("length"), **options)


def test_outside_and_empty():
    with pytest.raises(IndexError, match="index 3 in a set of 3"):
        DateSet(3)[3]
    with pytest.raises(ValueError, match="at least one index"):
        DateSet(3).batch([])
    with pytest.raises(ValueError, match="at least one item"):
        list(DateSet(3).batches(0))


@pytest.mark.parametrize("make", [
    lambda: DateSet(2.5), lambda: DateSet(3, seed=0.0), lambda: DateSet(3)[1.0], lambda: DateSet(3).batch([0.5]),
])  # fmt: skip
def test_fractions_are_no_numbers_of_items(make):
    """Item 1.0 would come from a random stream of its own."""
    with pytest.raises(TypeError, match="integer"):
        make()


def test_every_whole_number_means_the_same_item():
    items = DateSet(5, seed=1)
    assert items[torch.tensor(3)] == items[3] == items[-2]
    assert DateSet(5, seed=True)[0] == items[0]


def test_romanized_syllables():
    assert [romanize(token) for token in ("유", "월", "십", "천", "년", "march")] == [
        "yu", "wol", "sip", "cheon", "nyeon", "march",
    ]  # fmt: skip
    assert romanize("주문하고 싶다") == "jumunhago sipda"
    assert all(romanize(token).isascii() for token in SOURCE.tokens)
