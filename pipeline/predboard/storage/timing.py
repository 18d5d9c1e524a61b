"""Seconds of stage one by what they went into -> one line for a person. Knows not how they were measured."""

from collections.abc import Mapping

BUSY_KINDS = ("decode", "transfer", "forward", "write")
"""What is done; `decode` and `write` on threads of their own, the others in the thread that waits."""

WAITING_KINDS = ("wait", "behind")
"""What the thread that feeds the model waits for: pictures, and the writer."""

NO_SECONDS = dict.fromkeys((*BUSY_KINDS, *WAITING_KINDS), 0.0)


def add_seconds(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Sum by name."""
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def describe_seconds(seconds: Mapping[str, float], threads: int) -> str:
    """Where the time went, what it was bound by, and what would help; empty where there is too little of it to tell.

    Args:
        seconds: by names of BUSY and WAITING, of all devices together. Of part files, which do not know `behind`,
            writing counts as the bottleneck where it took longer than all the rest.
        threads: that read and decoded, for each device; 0 if unknown.

    >>> seconds = {"wait": 7.0, "transfer": 0.5, "forward": 2.0, "behind": 0.5, "decode": 15.0, "write": 0.8}
    >>> describe_seconds(seconds, 2)[:78]
    'waiting for pictures 70%, transfer 5%, model 20%, waiting for the writer 5%; b'
    """
    s = add_seconds(NO_SECONDS, seconds)
    if "behind" not in seconds:
        s["behind"] = max(s["write"] - s["wait"] - s["transfer"] - s["forward"], 0.0)
    names = ("wait", "transfer", "forward", "behind")
    total = sum(s[name] for name in names)
    if total < 2:
        return ""
    on = f" on {threads} threads" if threads else ""
    advice = {
        "wait": f"bound by decoding{on}: --workers, more processors, or smaller pictures",
        "transfer": "bound by bringing pictures to the device: a larger --batch-size, or a smaller --resize and --crop",
        "forward": "bound by the model: a GPU or another one (--device), --precision bf16, --compile",
        "behind": "bound by writing: a faster disk, or fewer columns (--thumbnails 0, no --embeddings)",
    }
    words = ("waiting for pictures", "transfer", "model", "waiting for the writer")
    shares = ", ".join(f"{word} {s[name] / total:.0%}" for word, name in zip(words, names, strict=True))
    return f"{shares}; {advice[max(names, key=s.__getitem__)]}"
