"""Import of one score in each row, for the positive one of two classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from predboard import InputError
from predboard.predictions.derive import MIN_PROBABILITY
from predboard.storage.runs import open_run
from tests.ingest.examples import logits_of, refused, run, run_logged

ROWS = 120
CLASSES = "cat\ndog\n"


def rows(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The logit of "dog", and labels of which one in five is a dog."""
    random = np.random.default_rng(seed)
    label = (np.arange(ROWS) % 5 == 0).astype(np.int64)
    return random.normal(3 * label - 1.5, 1).astype(np.float32), label


def sigmoid(z: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-z.astype(np.float64))))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    (tmp_path / "classes.txt").write_text(CLASSES)
    return tmp_path / "classes.txt"


@pytest.mark.parametrize("kind", ["npz", "npz-column", "npy", "csv", "parquet", "json", "parquet-list", "one-hot"])
@pytest.mark.parametrize("scores", ["logits", "probabilities", "log_probabilities"])
def test_a_column_of_scores_becomes_two_logits(kind: str, scores: str, tmp_path: Path, classes: Path) -> None:
    z, label = rows()
    score: Any = {"logits": z, "probabilities": sigmoid(z), "log_probabilities": np.log(sigmoid(z))}[scores]
    file, options = tmp_path / f"saved.{kind.partition('-')[0].replace('one', 'npz')}", {}
    frame = pd.DataFrame({"score": score, "label": label})
    if kind in ("npz", "npz-column"):
        np.savez(file, score=score if kind == "npz" else score[:, None], label=label)
    elif kind == "one-hot":
        np.savez(file, score=score, label=np.eye(2, dtype=int)[label])
    elif kind == "npy":
        np.save(file, score)
        np.save(tmp_path / "labels.npy", label)
        options = {"labels": tmp_path / "labels.npy"}
    elif kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "json":
        frame.to_json(file, orient="records", double_precision=15)
    else:
        frame["score"] = [[s] for s in score] if kind == "parquet-list" else score
        frame.to_parquet(file)
    found = run(tmp_path, file, scores=scores, classes=classes, **options)
    logits = logits_of(found).astype(np.float64)
    np.testing.assert_allclose(sigmoid(logits[:, 1] - logits[:, 0]), sigmoid(z), rtol=2e-6, atol=2e-7)
    if scores == "logits":
        assert np.all(logits[:, 0] == 0)
        np.testing.assert_allclose(logits[:, 1], z, rtol=1e-6)
    assert found["label"].tolist() == label.tolist()
    assert found["predicted"].tolist() == (z > 0).astype(int).tolist()


def test_no_probability_is_lost_near_1(tmp_path: Path, classes: Path) -> None:
    p = np.concatenate([[1 - 1e-12, 1e-12, 1.0, 0.0, 0.5], sigmoid(rows()[0])])
    label = np.concatenate([[1, 0, 1, 0, 0], rows()[1]])
    np.savez(tmp_path / "p.npz", prob=p, label=label)
    found = run(tmp_path, tmp_path / "p.npz", scores="probabilities", classes=classes)
    logits = logits_of(found).astype(np.float64)
    least = np.log(MIN_PROBABILITY)
    expected = [[np.log(1e-12), -1e-12], [-1e-12, np.log(1e-12)], [least, 0], [0, least], [np.log(0.5)] * 2]
    np.testing.assert_allclose(logits[:5], expected, rtol=1e-4)
    assert found["predicted"][4] == 0  # one half is the lower index
    assert open_run(tmp_path / "out")[0].parts[0].part.clipped == 2


def test_two_labels_are_enough_and_the_rows_must_bear_out_which_is_positive(tmp_path: Path) -> None:
    z, label = rows()
    names = np.array(["ok", "defect"])  # in alphabetical order "ok" is the second
    frame = pd.DataFrame({"score": z, "label": names[label]})
    frame.to_csv(tmp_path / "z.csv", index=False)
    refused("nothing says which of them is the positive class; the output speaks for defect, not ok", tmp_path,
            tmp_path / "z.csv")  # fmt: skip
    found, lines = run_logged(tmp_path, tmp_path / "z.csv", positive="defect")
    assert "the score speaks for defect (--positive)" in lines
    assert not [line for line in lines if line.startswith("warning")]
    (step,) = open_run(tmp_path / "out")
    assert (step.run.classes, step.run.positive) == (("defect", "ok"), "defect")
    np.testing.assert_allclose(logits_of(found)[:, 0], z, rtol=1e-6)
    with pytest.raises(InputError, match=r"was made with another positive \(defect, now ok\)"):
        run(tmp_path, tmp_path / "z.csv", positive="ok")

    frame.assign(label=np.array(["absent", "present"])[label]).to_csv(tmp_path / "z.csv", index=False)
    _, lines = run_logged(tmp_path, tmp_path / "z.csv", overwrite=True)
    assert "the score speaks for present (the second class); if it speaks for absent: --positive absent" in lines
    (warning,) = (line for line in lines if line.startswith("warning"))
    assert f"with an AUROC of {roc_auc_score(label, z):.3f}: --positive present makes it certain" in warning


def test_a_column_named_after_a_class_speaks_for_it(tmp_path: Path, classes: Path) -> None:
    z, label = rows()
    pd.DataFrame({"prob_cat": sigmoid(-z), "label": label}).to_csv(tmp_path / "p.csv", index=False)
    found, lines = run_logged(
        tmp_path, tmp_path / "p.csv", scores="probabilities", classes=classes, score_column="prob_cat"
    )
    assert "the score speaks for cat (the name of the column 'prob_cat')" in lines
    assert found["predicted"].tolist() == (z > 0).astype(int).tolist()
    _, lines = run_logged(
        tmp_path, tmp_path / "p.csv", scores="probabilities", classes=classes, score_column="prob_cat", positive="dog",
        overwrite=True,
    )  # fmt: skip
    (warning,) = (line for line in lines if line.startswith("warning"))
    assert "the output speaks for cat, not dog: the AUROC of 120 labelled images is 0.0" in warning
    assert warning.endswith("use --positive cat")


@pytest.mark.parametrize("positive", ["not_cat", "non-cat", "wild cat"])
def test_a_column_speaks_for_the_longest_name_in_which_it_ends(positive: str, tmp_path: Path) -> None:
    z, label = rows()
    names = np.where(label == 1, positive, "cat")
    pd.DataFrame({f"prob_{positive}": sigmoid(z), "label": names}).to_csv(tmp_path / "p.csv", index=False)
    _, lines = run_logged(tmp_path, tmp_path / "p.csv", scores="probabilities", score_column=f"prob_{positive}")
    assert f"the score speaks for {positive} (the name of the column 'prob_{positive}')" in lines
    assert not [line for line in lines if line.startswith("warning")]
    (step,) = open_run(tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out")
    said = np.array(step.run.classes)[frame["predicted"]] == positive
    assert said.tolist() == (z > 0).tolist()


def test_the_precision_is_that_of_the_saved_column(tmp_path: Path, classes: Path) -> None:
    z, label = rows()
    np.savez(tmp_path / "p.npz", prob=sigmoid(z).astype(np.float16), label=label)
    run(tmp_path, tmp_path / "p.npz", scores="probabilities", classes=classes)
    assert open_run(tmp_path / "out")[0].run.precision == "fp16"


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        ({"score": [0.2, 0.9], "label": ["a", "b"]}, {"positive": "c"}, "--positive is 'c'; expected a or b"),
        ({"score": [0.2, 0.9, 0.1], "label": ["a", "b", "c"]}, {}, "only one number per row, in 'score'"),
        ({"score": [0.2, 0.9]}, {}, "of two classes that of the positive one is enough: name both by --classes"),
        ({"confidence": [0.7, 0.9], "label": ["a", "b"]}, {}, "only one number per row, in 'confidence'"),
        ({"score": [0.7, 0.9], "label": ["a", "b"], "pred_label": ["a", "a"]}, {}, "only one number per row"),
        ({"prob": [0.2, 1.3], "label": [0, 1]}, {"scores": "probabilities"}, "numbers outside 0 to 1"),
        ({"prob": [-0.2, 0.3], "label": [0, 1]}, {"scores": "log_probabilities"}, "1 row has numbers above 0"),
        ({"prob": [0.2, "x"], "label": [0, 1]}, {"scores": "probabilities"}, "one number per row|which are the scores"),
        ({"score": [0.6 + 0.01 * (i % 30) for i in range(60)], "label": [i % 2 for i in range(60)]},
         {"scores": "probabilities"}, "every probability is at least one half.*--scores confidence"),
        ({"score": [0.2, 0.9], "label": [0.5, 1]}, {}, "not regression"),
    ],
)  # fmt: skip
def test_what_is_refused(frame: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path) -> None:
    pd.DataFrame(frame).to_csv(tmp_path / "s.csv", index=False)
    refused(words, tmp_path, tmp_path / "s.csv", **options)


def test_a_few_probabilities_above_one_half_may_be_those_of_the_positive_class(tmp_path: Path) -> None:
    pd.DataFrame({"prob": [0.6, 0.9], "label": [0, 1]}).to_csv(tmp_path / "s.csv", index=False)
    assert run(tmp_path, tmp_path / "s.csv", scores="probabilities")["predicted"].tolist() == [1, 1]


def test_probabilities_called_logits_are_noticed(tmp_path: Path, classes: Path) -> None:
    z, label = rows()
    np.savez(tmp_path / "p.npz", score=sigmoid(z), label=label)
    _, lines = run_logged(tmp_path, tmp_path / "p.npz", classes=classes)
    assert any("outputs all lie between 0 and 1, as probabilities do" in line for line in lines)


def test_an_array_of_one_column_and_one_class_is_what_it_was(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", logits=rows()[0][:, None])
    assert logits_of(run(tmp_path, tmp_path / "one.npz")).shape == (ROWS, 1)
