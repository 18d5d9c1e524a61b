"""Write numbers, names and tables as people read them. It knows nothing of what they stand for."""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any


def plural(number: int, one: str, many: str = "") -> str:
    """Return a number and what it counts.

    >>> plural(1, "part"), plural(1200, "part"), plural(0, "class", "classes")
    ('1 part', '1,200 parts', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """Return a share as people read it: never 100 % or 0 % unless it is exactly that.

    >>> percent(0.9996), percent(1.0), percent(0.0003), percent(0.123)
    ('>99.9 %', '100 %', '<0.1 %', '12.3 %')
    """
    if share >= 1 or share <= 0:
        return f"{100 * share:.0f} %"
    if share >= 0.9995:
        return ">99.9 %"
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def signed(value: float, digits: int = 0) -> str:
    """Return a number with its sign, with a typographic minus.

    >>> signed(1.25, 1), signed(-3), signed(0), signed(-0.04, 1)
    ('+1.2', '−3', '0', '−0.0')
    """
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{abs(value):,.{digits}f}"


def compact(number: int) -> str:
    """Return a number in at most four characters.

    >>> compact(940), compact(1234), compact(56789), compact(4_000_000)
    ('940', '1234', '57k', '4M')
    """
    if number < 10_000:
        return str(number)
    return f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.0f}M"


def shorter(number: int) -> list[str]:
    """Return a count as it is written where there is room, and where there is less and less.

    >>> shorter(1234), shorter(-12)
    (['1234', '1k'], ['−12'])
    >>> shorter(123456)
    ['123456', '123k']
    """
    size = abs(number)
    texts = [str(size)] if size < 1000 else [str(size), f"{size / 1e3:.0f}k" if size < 999_500 else compact(size)]
    return [f"−{text}" if number < 0 else text for text in dict.fromkeys(texts)]


def shorten(text: str, limit: int) -> str:
    """Leave out the middle of a text that is longer than `limit` characters.

    >>> shorten("resnet50-pretrained", 10), shorten("resnet50", 10)
    ('resne…ined', 'resnet50')
    """
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - (limit - 1) // 2 :]}"


def shared_start(texts: Sequence[str]) -> int:
    """Return how many characters at their beginning all texts share.

    >>> shared_start(["scan_0001.png", "scan_0012.png"]), shared_start([])
    (7, 0)
    """
    first, last = min(texts, default=""), max(texts, default="")
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def either(words: Sequence[str]) -> str:
    """Join words that exclude each other.

    >>> either(["a", "b", "c"]), either(["a"])
    ('a, b or c', 'a')
    """
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def nearest_names(word: Any, words: Collection[str], limit: int = 3, likeness: float = 0.5) -> list[str]:
    """Return the words most like another, whatever their case; those that end with it come first.

    `likeness` is the smallest ratio, as in `difflib`, that counts as near.

    >>> nearest_names("acuracy", ["nll", "accuracy", "mcc"]), nearest_names("ece", ["mce", "calibration/ece"], 1)
    (['accuracy'], ['calibration/ece'])
    """
    import difflib  # 5 ms, for messages alone

    asked, lower = str(word).lower(), {known.lower(): known for known in words}
    ends = [known for known in lower if asked and known.endswith(asked)]
    like = difflib.get_close_matches(asked, lower, limit, likeness)
    return [lower[name] for name in dict.fromkeys([*ends, *like])][:limit]


def did_you_mean(word: Any, words: Collection[str], likeness: float = 0.7) -> str:
    """Return the end of a message that names what a person may have meant; nothing if no word is near.

    `likeness` is as of `nearest_names`.

    >>> did_you_mean("--reszie", ["--resize", "--crop"]), did_you_mean("--nonsense", ["--channels"])
    ('; did you mean --resize?', '')
    """
    near = nearest_names(word, words, 1, likeness)
    return f"; did you mean {near[0]}?" if near else ""


def unique_names(texts: Sequence[str], taken: Collection[str] = ()) -> tuple[str, ...]:
    r"""Make texts usable as ends of tags: on one line, all different, and none among those that are taken.

    >>> unique_names(["a/b", "x\n y", "x y", "all", ""], ["all"])
    ('a/b', 'x y', 'x y (2)', 'all (2)', 'unnamed')
    """
    used, names = set(taken), []
    for text in texts:
        line = " ".join(text.split()) or "unnamed"
        free = next(t for i in itertools.count(1) if (t := line if i == 1 else f"{line} ({i})") not in used)
        used.add(free)
        names.append(free)
    return tuple(names)


_MARKS = r"[\\|*]|\[(?=[^\]]*\][\[(:])|(?<![^\W_])_|_(?![^\W_])"
"""Signs of Markdown in the middle of a line."""

_FIRST_MARK = re.compile(r"^(\d*)(?=\S)([#>]|[-+](?= |$)|(?<=\d)[.)](?= |$))")
"""The sign by which a line becomes a heading, a quote or an item of a list."""


def escape_markdown(text: str) -> str:
    r"""Make Markdown show text as it is, also in a table: on one line; code between backticks stays code.

    >>> print(escape_markdown("a|b *c*"), escape_markdown("_d_e"), escape_markdown("![f](g)"))
    a\|b \*c\* \_d_e !\[f](g)
    >>> print(escape_markdown("<img src=h>"), escape_markdown("- i"), escape_markdown("`"), escape_markdown("`<j>`"))
    &lt;img src=h> \- i \` `<j>`
    """
    pieces = re.split("(`[^`]+`)", " ".join(text.split()))  # every second one is code
    for at, piece in enumerate(pieces):
        if at % 2:
            pieces[at] = re.sub(_MARKS, r"\\\g<0>", piece)
        else:
            marked = re.sub(f"`|{_MARKS}", r"\\\g<0>", piece)
            pieces[at] = re.sub(r"&(?=#?\w+;)", "&amp;", marked).replace("<", "&lt;")
    return _FIRST_MARK.sub(r"\1\\\2", "".join(pieces))


def markdown_table(titles: Sequence[str], alignment: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. The cells are written as they are: escape names with `escape_markdown`.

    Args:
        titles: title of each column.
        alignment: a letter for each column, `l` for left and `r` for right.
        rows: cells of each row.

    >>> print(markdown_table(("class", "images"), "lr", [("cat", "12"), ("dog", "7")]))
    | class | images |
    |---|---:|
    | cat | 12 |
    | dog | 7 |
    """
    head = f"|{'|'.join(f' {title} ' if title else ' ' for title in titles)}|"
    rule = f"|{'|'.join('---:' if letter == 'r' else '---' for letter in alignment)}|"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)])
