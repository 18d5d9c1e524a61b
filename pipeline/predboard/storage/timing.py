"""Describes where the seconds of stage one went, and what would make it faster.

It knows nothing of how they are measured.
"""

from collections.abc import Mapping

BUSY_KINDS = ("decode", "transfer", "forward", "write")
"""Kinds of work; `decode` and `write` run on threads of their own, the others on the thread that feeds the model."""

WAITING_KINDS = ("wait", "behind")
"""Waits of the thread that feeds the model: for images, and for the writer."""

NO_SECONDS = dict.fromkeys((*BUSY_KINDS, *WAITING_KINDS), 0.0)


def add_seconds(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Add seconds by kind."""
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def describe_seconds(seconds: Mapping[str, float], threads: int) -> str:
    """Return one line about the shares of time, the bottleneck and its remedies; empty for less than 2 seconds.

    Args:
        seconds: by the kinds above, of all devices together. Part files do not record `behind`; for
            them, writing counts as the bottleneck if it took longer than everything else.
        threads: number of threads that read and decode, for each device; 0 if unknown.

    >>> describe_seconds({"wait": 7.0, "transfer": 0.5, "forward": 2.0, "behind": 0.5, "decode": 15.0}, 2)[:77]
    'waiting for images 70%, transfer 5%, model 20%, waiting for the writer 5%; li'
    """
    s = add_seconds(NO_SECONDS, seconds)
    if "behind" not in seconds:
        s["behind"] = max(s["write"] - s["wait"] - s["transfer"] - s["forward"], 0.0)
    kinds = {
        "wait": "waiting for images",
        "transfer": "transfer",
        "forward": "model",
        "behind": "waiting for the writer",
    }
    total = sum(s[name] for name in kinds)
    if total < 2:
        return ""
    on = f" on {threads} threads" if threads else ""
    advice = {
        "wait": f"limited by decoding{on}: try --workers, more processors, or smaller images",
        "transfer": "limited by copying to the device: try a larger --batch-size, or a smaller --resize and --crop",
        "forward": "limited by the model: try a GPU (--device), --precision bf16, or --compile",
        "behind": "limited by writing: try a faster disk, or fewer columns (--thumbnails 0, no --embeddings)",
    }
    shares = ", ".join(f"{words} {s[name] / total:.0%}" for name, words in kinds.items())
    return f"{shares}; {advice[max(kinds, key=s.__getitem__)]}"
