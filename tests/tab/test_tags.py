"""Tags are kept in a file that only grows, whatever else writes to it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from predboard import InputError
from predboard.storage.mirror import MIRROR_FILE
from predboard.tab.tags import Tags


def test_tags_of_a_copy_of_logs_in_storage_are_read_only_and_the_tab_can_say_why(tmp_path: Path) -> None:
    tags = Tags(tmp_path / "predboard_tags.jsonl")
    assert tags.read_only == ""
    (tmp_path / MIRROR_FILE).touch()
    assert "in object storage" in tags.read_only


def test_two_windows_and_two_processes_tag_at_once_and_none_loses_a_tag(tmp_path: Path) -> None:
    """Two servers on one folder, each with several requests at a time, as browser windows send them."""
    file = tmp_path / "predboard_tags.jsonl"
    code = (
        "import sys\nfrom concurrent.futures import ThreadPoolExecutor\nfrom pathlib import Path\n"
        "from predboard.tab.tags import Tags\n"
        "tags, first = Tags(Path(sys.argv[1])), int(sys.argv[2])\n"
        "with ThreadPoolExecutor(4) as windows:\n"
        "    changes = [range(key, key + 50) for key in range(first, first + 60)]\n"
        "    list(windows.map(lambda keys: tags.change('hard', True, keys), changes))\n"
    )
    begun = [subprocess.Popen([sys.executable, "-c", code, file, str(first)]) for first in (0, 1000)]
    assert [process.wait(timeout=60) for process in begun] == [0, 0]
    assert Tags(file).counts() == {"hard": 2 * 109}
    for line in file.read_text().splitlines():
        json.loads(line)


def test_tags_are_there_again_when_the_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "predboard_tags.jsonl"
    tags = Tags(file)
    assert tags.change("hard", True, [3, -5, 2**62]) == 3
    assert tags.change("hard", True, [3]) == 0
    assert tags.change("relabel", True, [3], "cat") == 1
    assert tags.change("hard", False, [3, 8]) == 1
    again = Tags(file)
    assert again.counts() == tags.counts() == {"hard": 2, "relabel": 1}
    assert again.of_images(np.array([3, -5, 4])) == [["relabel"], ["hard"], []]
    assert again.label_of(3) == "cat"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["tag"], line["on"], line["keys"]) for line in lines] == [
        ("hard", True, ["-5", "3", str(2**62)]),
        ("relabel", True, ["3"]),
        ("hard", False, ["3"]),
    ]


def test_each_change_is_taken_back_in_turn(tmp_path: Path) -> None:
    tags = Tags(tmp_path / "tags.jsonl")
    states = []
    for on, keys, label in ((True, [1, 2], "cat"), (True, [2, 3], "dog"), (True, [4], None), (False, [1, 2], None)):
        states.append((tags.counts(), [tags.label_of(key) for key in range(5)]))
        tags.change("relabel", on, keys, label)
    for state in reversed(states):
        assert tags.undo() is not None
        assert (tags.counts(), [tags.label_of(key) for key in range(5)]) == state
        assert Tags(tags.path).counts() == state[0]
    assert tags.undo() is None


def test_two_write_to_one_file(tmp_path: Path) -> None:
    one, other = Tags(tmp_path / "tags.jsonl"), Tags(tmp_path / "tags.jsonl")
    one.change("hard", True, [1])
    other.change("hard", True, [2])
    assert one.counts() == other.counts() == {"hard": 2}
    one.undo()
    assert other.counts() == {"hard": 1}
    assert other.keys_with("hard").tolist() == [2]


def test_lines_that_are_none_and_an_interrupted_one_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "tags.jsonl"
    good = b'{"tag": "hard", "on": true, "keys": ["1"]}\n'
    file.write_bytes(b"[1]\nnonsense\n\xff\n" + good + b'{"tag": "ha')
    tags = Tags(file)
    assert tags.counts() == {"hard": 1}
    tags.change("hard", True, [2])
    assert tags.counts() == Tags(file).counts() == {"hard": 2}
    assert file.read_bytes().startswith(b"[1]\nnonsense\n\xff\n" + good + b'{"tag": "ha\n{')
    file.unlink()
    assert tags.counts() == {}


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write tags to"):
        Tags(tmp_path / "gone" / "tags.jsonl").change("hard", True, [1])
