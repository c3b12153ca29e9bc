"""The names of the files in a folder of sections: which are sections, in which order, and which are something else."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from napari_stnreg.core.errors import InputError
from napari_stnreg.io.image import SUPPORTED_SUFFIXES

_ODD_WORDS = {
    "mask", "masks", "label", "labels", "seg", "segmentation", "annotation", "annotations", "overview", "thumb",
    "thumbnail", "thumbnails", "preview", "macro", "montage", "snapshot", "screenshot", "copy", "backup", "mip",
    "projection", "background", "flatfield", "darkfield",
}  # fmt: skip
"""Words in the names of pictures that are found beside sections."""
_CHANNEL_WORDS = {
    "c", "ch", "chan", "channel", "channels", "w", "wl", "wave", "wavelength", "lambda", "filter", "cy", "alexa",
    "alexafluor", "af", "atto", "dylight",
}  # fmt: skip
"""Words before a number that counts channels or names a dye."""
_SECTION_WORDS = {
    "z", "s", "sec", "section", "sections", "slice", "sl", "cut", "plane", "nr", "no", "number", "schnitt",
}  # fmt: skip
"""Words before a number that counts sections."""
_OUTER_WORDS = {"slide", "block", "wafer", "tray", "grid", "plate", "animal", "mouse", "brain", "tape", "reel", "day"}
"""Words before a number under which the count of sections restarts."""
_NUMBER = re.compile(r"\d+(?:\.\d+)*")
_SIGNS = "+-\N{MINUS SIGN}"
_MAX_LISTED = 6
Number = tuple[Fraction, ...]


@dataclass(frozen=True)
class SectionNames:
    """The order of the files of a folder.

    Parameters
    ----------
    rows
        File names in the order of the sections; ``None`` where a number is missing.
    notes
        Sentences about files that were left out, and about an order that is not certain.
    """

    rows: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Name:
    """A file name as text and numbers in turn: ``texts`` is one longer than ``numbers``."""

    name: str
    texts: tuple[str, ...]
    numbers: Number
    spans: tuple[tuple[int, int], ...]

    def word(self, field: int) -> str:
        """The last word before a number."""
        found = re.findall(r"[^\W\d_]+", self.texts[field])
        return found[-1] if found else ""

    def words(self) -> set[str]:
        return {word for text in self.texts for word in re.findall(r"[^\W\d_]+", text)}

    def pattern(self, fields: Iterable[int]) -> str:
        """The name with some of its numbers replaced by a star."""
        text = self.name
        for start, end in sorted((self.spans[field] for field in fields), reverse=True):
            text = f"{text[:start]}*{text[end:]}"
        return text


@dataclass(frozen=True)
class _Series:
    """Files that differ by the number of their section."""

    first: _Name
    pattern: str
    files: dict[Number, str]
    words: frozenset[str]
    field: int = -1

    @property
    def names(self) -> list[str]:
        return list(self.files.values())


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that compares the numbers in names by their value."""
    parts = [part for part in re.split(r"(\d+)", name.lower()) if part]
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def order_sections(names: Sequence[str], folder: str, channel: int | None = None) -> SectionNames:
    """Find the sections among the images of a folder, and their order.

    The names are compared with each other: the number that counts is the section. Files that differ otherwise, in a
    word or in the number of a channel, and repeat the same section numbers, are channels. Pictures that follow no such
    series, such as an overview or masks, are left out and listed.

    Parameters
    ----------
    names
        Names of the images.
    folder
        Name of the folder in messages.
    channel
        Channel, if there are several, in the order of the message that lists them; the first one by default.

    Raises
    ------
    InputError
        If there is no such channel, or the names do not distinguish sections from other files.
    """
    parsed = _parse(names)
    groups: dict[tuple[str, ...], list[_Name]] = defaultdict(list)
    for item in parsed:
        groups[item.texts].append(item)
    notes: list[str] = []
    series = [part for group in groups.values() for part in _series_of(group, folder, notes)]
    series, odd = _without_odd_words(series)
    main = max(series, key=lambda one: (len(one.files), one.pattern))
    total = sum(len(one.files) for one in series)
    channels = [one for one in series if one is main or _repeats(one, main)]
    channels.sort(key=lambda one: natural_key(one.pattern))
    chosen = channels[_chosen_channel(channels, channel, folder, notes)]
    if len(channels) == 1 and (len(main.files) < 2 or 2 * len(main.files) < total):
        rows = sorted([name for one in series for name in one.names], key=natural_key)
        notes += _left_out(odd)
        if len(rows) > 1:
            notes.append(f"The names in '{folder}' follow no common pattern. The sections are in their natural order.")
        return SectionNames(tuple(rows), tuple(notes))
    files = dict(chosen.files)
    for one in series:
        if one in channels:
            continue
        extra = _numbered_like(one, chosen)
        is_new = bool(extra) and not set(extra) & set(files)
        if is_new and _is_regular([number[0] for number in (*files, *extra)]):
            files.update(extra)
            notes.append(f"'{one.pattern}' is assumed to name sections between those of '{chosen.pattern}'.")
        else:
            odd += one.names
    return SectionNames(_rows(files, chosen.pattern, notes), (*_left_out(odd), *notes))


def natural_sections(names: Sequence[str]) -> SectionNames:
    """Use all files as sections, in the order of the number by which they differ."""
    notes: list[str] = []
    parsed = _parse(names)
    if len({one.texts for one in parsed}) == 1:
        counts = [f for f in range(len(parsed[0].numbers)) if len({one.numbers[f] for one in parsed}) > 1]
        if len(counts) == 1:
            files: dict[Number, str] = {(one.numbers[counts[0]],): one.name for one in parsed}
            if len(files) == len(names):
                return SectionNames(_rows(files, parsed[0].pattern(counts), notes), tuple(notes))
    in_order = sorted(names, key=natural_key)
    return SectionNames(tuple(in_order))


def _parse(names: Sequence[str]) -> list[_Name]:
    stems = {name: _stem(name) for name in names}
    dotted = {m for stem in stems.values() for m in _NUMBER.findall(stem) if m.count(".") == 1}
    # 1.1 and 1.10 in one folder are numbers below a number, 0.25 and 0.5 are fractions.
    is_decimal = len({Fraction(one) for one in dotted}) == len(dotted)
    found = []
    for name, stem in stems.items():
        texts, numbers, spans, position = [], [], [], 0
        for match in _NUMBER.finditer(stem):
            if match[0].count(".") == 1 and is_decimal:
                pieces = [(match.start(), match.end())]
            else:
                pieces = [(m.start() + match.start(), m.end() + match.start()) for m in re.finditer(r"\d+", match[0])]
            for start, end in pieces:
                texts.append(stem[position:start].lower())
                numbers.append(Fraction(stem[start:end]))
                spans.append((start, end))
                position = end
        texts.append(f"{stem[position:].lower()}{name[len(stem) :].lower()}")
        found.append(_Name(name, tuple(texts), tuple(numbers), tuple(spans)))
    return [_tidied(one) for one in _signed(found)]


def _stem(name: str) -> str:
    suffix = next((one for one in SUPPORTED_SUFFIXES if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)]


def _signed(found: list[_Name]) -> list[_Name]:
    """Read a minus before a number as a sign where the same name also occurs with a plus or without a sign."""

    def bare(one: _Name) -> tuple[str, ...]:
        return (*(text.rstrip(_SIGNS) for text in one.texts[:-1]), one.texts[-1])

    def sign(text: str) -> str:
        return "" if not text or text[-1] not in _SIGNS else "+" if text[-1] == "+" else "-"

    signs: dict[tuple[tuple[str, ...], int], set[str]] = defaultdict(set)
    for one in found:
        for field in range(len(one.numbers)):
            signs[bare(one), field].add(sign(one.texts[field]))
    result = []
    for one in found:
        texts, numbers, spans = list(one.texts), list(one.numbers), list(one.spans)
        for field in range(len(numbers)):
            seen = signs[bare(one), field]
            here = sign(texts[field])
            if "-" in seen and len(seen) > 1 and here:
                numbers[field] *= -1 if here == "-" else 1
                texts[field] = texts[field].rstrip(_SIGNS)
                spans[field] = (spans[field][0] - 1, spans[field][1])
        result.append(_Name(one.name, tuple(texts), tuple(numbers), tuple(spans)))
    return result


def _tidied(one: _Name) -> _Name:
    """Texts in which spaces, underscores and hyphens are the same."""
    return replace(one, texts=tuple(re.sub(r"[\s_\-]+", "_", text) for text in one.texts))


def _series_of(group: list[_Name], folder: str, notes: list[str]) -> list[_Series]:
    """Split files of one pattern into channels, and find the number that counts sections."""
    count = len(group)
    values = list(zip(*(one.numbers for one in group), strict=True))
    varying = [field for field, column in enumerate(values) if len(set(column)) > 1]
    first = group[0]
    if not varying:
        return [_one_series([one], []) for one in group]
    words = {field: first.word(field) for field in varying}
    is_tiled = "r" in words.values() or "row" in words.values()
    for field in varying:
        is_dye = first.texts[field + 1].startswith("nm") or words[field] in _CHANNEL_WORDS
        if is_dye and not is_tiled and len(varying) > 1 and len(set(values[field])) <= max(count // 2, 2):
            parts: dict[Fraction, list[_Name]] = defaultdict(list)
            for one in group:
                parts[one.numbers[field]].append(one)
            return [s for part in parts.values() for s in _series_of(part, folder, notes)]
    unique = [field for field in varying if len(set(values[field])) == count]
    by_word = [field for field in unique if words[field] in _SECTION_WORDS]
    regular = [field for field in unique if _is_regular(values[field])]
    others = [field for field in varying if field not in unique]
    if by_word or regular or (unique and not _distinguish(group, others)):
        field = (by_word or regular or unique)[0]
        return [_one_series(group, [field], varying)]
    if not _distinguish(group, varying):
        same = next(one for one in group if sum(one.numbers == other.numbers for other in group) > 1)
        twice = [one.name for one in group if one.numbers == same.numbers]
        raise InputError(f"In '{folder}' the files '{twice[0]}' and '{twice[1]}' have the same number.")
    # No single number distinguishes the files: parts of one number, or something beside the sections.
    fields = others if _distinguish(group, others) else varying
    sizes = [len(set(values[field])) for field in fields]
    is_nested = words[fields[0]] in _OUTER_WORDS
    if len(fields) > 1 and math.prod(sizes) == count and not is_nested:
        raise InputError(
            f"The files of '{folder}' have {len(fields)} numbers, such as '{first.name}' and '{group[1].name}': "
            f"{' x '.join(map(str, sizes))}. Which one counts sections is not known. Name the files of one channel "
            f"with a pattern, such as '{first.pattern([fields[0]])}', or all as successive sections with '*'."
        )
    notes.append(
        f"The sections of '{folder}' are ordered by {len(fields)} numbers in their names, as in '{first.name}'."
    )
    return [_one_series(group, fields, varying)]


def _one_series(group: list[_Name], fields: list[int], varying: Sequence[int] = ()) -> _Series:
    files: dict[Number, str] = {}
    for one in sorted(group, key=lambda one: natural_key(one.name)):
        files.setdefault(tuple(one.numbers[field] for field in fields), one.name)
    first = group[0]
    words = frozenset(word for one in group for word in one.words())
    return _Series(first, first.pattern(varying or fields), files, words, fields[0] if len(fields) == 1 else -1)


def _distinguish(group: list[_Name], fields: Sequence[int]) -> bool:
    return bool(fields) and len({tuple(one.numbers[field] for field in fields) for one in group}) == len(group)


def _is_regular(values: Sequence[Fraction]) -> bool:
    """Return whether numbers are evenly spaced, apart from a few gaps."""
    return _steps(sorted(values))[1] <= 2 * len(values)


def _steps(numbers: Sequence[Fraction]) -> tuple[Fraction, int]:
    """Return the common step of sorted numbers, and how many there are with all gaps filled."""
    scale = math.lcm(*(one.denominator for one in numbers))
    step = Fraction(math.gcd(*(int((b - a) * scale) for a, b in pairwise(numbers))) or 1, scale)
    return step, int((numbers[-1] - numbers[0]) / step) + 1


def _without_odd_words(series: list[_Series]) -> tuple[list[_Series], list[str]]:
    """Take out masks, overviews and the like, if sections without such a word are left."""
    plain = [one for one in series if not one.words & _ODD_WORDS]
    if sum(len(one.files) for one in plain) < 2:
        return series, []
    return plain, [name for one in series if one.words & _ODD_WORDS for name in one.names]


def _repeats(one: _Series, main: _Series) -> bool:
    """Return whether a series has the section numbers of the main one, so that it is another channel."""
    common = len(set(one.files) & set(main.files))
    return len(one.files) >= 2 and 2 * len(one.files) >= len(main.files) and 2 * common >= len(one.files)


def _numbered_like(one: _Series, main: _Series) -> dict[Number, str]:
    """The section numbers of a smaller series, if its names begin as those of the main one or it counts itself."""
    if main.field < 0 or (one.field < 0 and len(one.files) > 1):
        return {}
    if len(one.files) > 1:
        return one.files
    # A single file: which of its numbers counts is known from the main series.
    name, before = one.first, slice(main.field + 1)
    if len(name.numbers) <= main.field or name.texts[before] != main.first.texts[before]:
        return {}
    return {(name.numbers[main.field],): name.name}


def _chosen_channel(channels: list[_Series], channel: int | None, folder: str, notes: list[str]) -> int:
    if len(channels) == 1:
        if channel not in (None, 0):
            raise InputError(f"'{folder}' has one channel. There is no channel {channel}.")
        return 0
    listed = _listed([f"{i}: '{one.pattern}'" for i, one in enumerate(channels)])
    if channel is None:
        notes.append(
            f"'{folder}' holds {len(channels)} files for each section ({listed}). Channel 0 is used. Choose another "
            "one with channel, or name its files with a pattern."
        )
        return 0
    if not 0 <= channel < len(channels):
        raise InputError(f"'{folder}' has {len(channels)} channels ({listed}). There is no channel {channel}.")
    return channel


def _rows(files: dict[Number, str], pattern: str, notes: list[str]) -> tuple[str | None, ...]:
    """Names in the order of their numbers, ``None`` where a number is missing."""
    order = sorted(files)
    in_order: tuple[str | None, ...] = tuple(files[number] for number in order)
    if len(order) < 2 or len(order[0]) != 1:
        return in_order
    numbers = [number[0] for number in order]
    step, count = _steps(numbers)
    if count > 2 * len(numbers):  # numbers that mean something else, such as dates, or a few far away
        notes.append(
            f"The numbers of '{pattern}' are uneven, from {float(numbers[0]):.15g} to {float(numbers[-1]):.15g}. The "
            "sections follow each other in their order, without gaps."
        )
        return in_order
    return tuple(files.get((numbers[0] + i * step,)) for i in range(count))


def _listed(entries: list[str]) -> str:
    return ", ".join(entries[:_MAX_LISTED]) + (", ..." if len(entries) > _MAX_LISTED else "")


def _left_out(names: list[str]) -> list[str]:
    if not names:
        return []
    listed = _listed([f"'{name}'" for name in sorted(names, key=natural_key)])
    what = "1 file is" if len(names) == 1 else f"{len(names)} files are"
    return [f"{what} not used as sections: {listed}. Name other files with a pattern."]
