"""The tables of all metrics: what each is called and means, how it is computed, and how sure it is.

A new metric is one row here and one function. The panels draw the rows; `summary.json` has their values and
definitions; `compare`, `gate`, the leaderboard and HParams read their names, labels and directions; docs/metrics.md and
`predboard metrics` are made from them. The table of several labels is in `multi_label.label_registry`. It knows nothing
of panels, files or drawing.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from predboard.metrics import calibration, classification, intervals, slices, two_classes
from predboard.metrics.counts import MarginMetric
from predboard.metrics.group_registry import GROUPS
from predboard.metrics.metric_spec import Direction, Group, MetricSpec, count_metric
from predboard.metrics.multi_label.label_registry import LABEL_METRICS
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL

BOOTSTRAP, PAIRED_BOOTSTRAP = intervals.BOOTSTRAP, intervals.PAIRED_BOOTSTRAP
PAIRED_BINS = "bias-corrected bootstrap of the joint calibration bins, {:,} draws"

PREFIXES = ("classes/", "slices/", "groups/")
"""Beginnings of the names of metrics that each class, slice or level of groups has."""


IMAGES = (
    count_metric("images", "images", "Rows of predictions, failed ones included.", lambda c, _: int(c.rows)),
    count_metric("images/missing", "missing", "Rows of the manifest without predictions yet.",
                 lambda c, n: n - int(c.rows)),
    count_metric("images/failed", "failed", "Images that could not be read or gave no finite logits.",
                 lambda c, _: int(c.failed)),
    count_metric("images/unlabelled", "unlabelled", "Images without a label.", lambda c, _: int(c.unlabelled)),
    count_metric("images/counted", "counted", "Images with logits and a label: those the metrics count.",
                 lambda c, _: c.metrics.counted),
)  # fmt: skip


def margin_metric(name: str, label: str, definition: str, function: MarginMetric, **more: Any) -> MetricSpec:
    """Return the row of a metric that follows from the margins of the confusion matrix, with both bootstraps."""
    return MetricSpec(
        name=name, label=label, definition=definition, margins=function, interval=BOOTSTRAP, paired=PAIRED_BOOTSTRAP,
        **more,
    )  # fmt: skip


OVERALL = (
    MetricSpec(
        name="accuracy", label="accuracy", column="accuracy", compute=classification.accuracy,
        definition="Share of images whose highest logit is the true class.",
        formula="Σ hits_c / n",
        interval=intervals.WILSON, paired=intervals.NEWCOMBE, band=True, suggested=True,
    ),
    MetricSpec(
        name="accuracy_top2", label="top-2 accuracy", compute=classification.accuracy_top2, needs_logits=True,
        definition="Share of images whose true class is among the 2 highest logits; of ties the expected share.",
        formula="mean over images of P(rank of the true class ≤ 2), ties in random order",
        interval=intervals.WILSON,
    ),
    MetricSpec(
        name="accuracy_top5", label="top-5 accuracy", column="top-5", compute=classification.accuracy_top5,
        definition="Share of images whose true class is among the 5 highest logits; of ties the expected share.",
        formula="mean over images of P(rank of the true class ≤ 5), ties in random order",
        needs_logits=True, interval=intervals.WILSON,
    ),
    margin_metric(
        "balanced_accuracy", "balanced accuracy", "Mean recall over classes with images.",
        classification.balanced_accuracy, column="balanced", band=True,
        formula="mean over c with support_c > 0 of hits_c / support_c",
        source="Brodersen et al. 2010; scikit-learn's balanced_accuracy_score",
    ),
    margin_metric(
        "precision_macro", "macro precision",
        "Mean precision over classes with images or predictions; division by zero counts 0.",
        classification.precision_macro, formula="mean over present c of hits_c / predictions_c",
        source='scikit-learn, average="macro", zero_division=0',
    ),
    margin_metric(
        "recall_macro", "macro recall",
        "Mean recall over classes with images or predictions; division by zero counts 0.",
        classification.recall_macro, formula="mean over present c of hits_c / support_c",
        source='scikit-learn, average="macro", zero_division=0',
    ),
    margin_metric(
        "f1_macro", "macro F1", "Mean F1 over classes with images or predictions; division by zero counts 0.",
        classification.f1_macro, column="macro F1", band=True, suggested=True,
        formula="mean over present c of 2 hits_c / (support_c + predictions_c)",
        source='Opitz & Burst 2019 (averaged F1); scikit-learn, average="macro"',
    ),
    margin_metric(
        "f1_weighted", "weighted F1", "Mean F1 over classes, weighted by their images.", classification.f1_weighted,
        formula="Σ support_c · F1_c / n",
        source='scikit-learn, average="weighted"',
    ),
    margin_metric(
        "mcc", "MCC",
        "Matthews correlation coefficient of several classes (Gorodkin's R_K): 1 perfect, 0 as good as chance.",
        classification.mcc, column="MCC", range=(-1.0, 1.0),
        formula="(n Σ hits_c − Σ support_c predictions_c) / √((n² − Σ predictions_c²)(n² − Σ support_c²))",
        source="Gorodkin 2004",
    ),
    MetricSpec(
        name="nll", label="NLL", column="NLL", unit="nats", compute=classification.nll, range=(0, inf), better="less",
        definition="Mean negative log-likelihood of the true class, nats.",
        formula="mean over images of −ln p(true class)",
        interval=intervals.MEAN, paired=intervals.PAIRED_MEAN, band=True,
    ),
    MetricSpec(
        name="brier", label="Brier score", column="Brier", compute=classification.brier, range=(0, 2), better="less",
        definition="Mean squared distance of the probabilities from the true class, summed over classes: 0 best, 2 "
        "worst.",
        formula="mean over images of Σ_c (p_c − [c is true])²", source="Brier 1950",
        needs_logits=True, interval=intervals.MEAN,
    ),
    MetricSpec(
        name="auroc_macro", label="macro AUROC", column="AUROC", compute=classification.auroc_macro, band=True,
        definition="Area under the ROC curve, one class against the rest, mean over classes with images.",
        formula="mean over c of P(p_c of an image of c > p_c of another), ties count half",
        source="Hand & Till 2001 (one against the rest); scikit-learn's roc_auc_score",
        needs_logits=True, interval=intervals.JACKKNIFE,
    ),
    MetricSpec(
        name="average_precision_macro", label="macro average precision", column="AP", band=True,
        compute=classification.average_precision_macro,
        definition="Average precision (step sum), a class against the rest, mean over classes with images. Nearly "
        "equal scores count as evenly mixed; scikit-learn takes equal ones as one threshold, within the bound.",
        formula="mean over c of Σ_k precision_k (recall_k − recall_{k−1})",
        source="scikit-learn's average_precision_score",
        needs_logits=True, interval=intervals.JACKKNIFE,
    ),
    MetricSpec(
        name="aurc", label="AURC", compute=classification.aurc, better="less",
        definition="Area under the risk–coverage curve: error rate of the most confident images, averaged over how "
        "many are kept.",
        formula="mean over k = 1 … n of the error rate of the k most confident images",
        source="Geifman & El-Yaniv 2017",
        needs_logits=True, from_confidence=True, interval=intervals.DELETE_ONE_WIDENED,
    ),
)  # fmt: skip


def _positive(name: str, label: str, definition: str, compute: Callable[..., Any], **more: Any) -> MetricSpec:
    return MetricSpec(
        name=f"positive/{name}", label=f"{label} (positive)", definition=definition, compute=compute, band=True, **more,
    )  # fmt: skip


POSITIVE = (
    _positive(
        "precision", "precision", "Share of the images predicted as the positive class that are of it.",
        two_classes.precision, formula="hits / predictions, of the positive class", interval=intervals.WILSON,
        paired=intervals.ZOU, suggested=True, column="precision (positive)",
        source='scikit-learn\'s precision_score, average="binary"',
    ),
    _positive(
        "recall", "recall", "Share of the images of the positive class that are predicted as it (sensitivity).",
        two_classes.recall, formula="hits / support, of the positive class", interval=intervals.WILSON,
        paired=intervals.NEWCOMBE, suggested=True, column="recall (positive)",
        source='scikit-learn\'s recall_score, average="binary"',
    ),
    _positive(
        "specificity", "specificity", "Share of the images of the other class that are predicted as that one.",
        two_classes.specificity, formula="hits / support, of the other class", interval=intervals.WILSON,
        paired=intervals.NEWCOMBE, source="Yerushalmy 1947",
    ),
    _positive(
        "f1", "F1", "Harmonic mean of precision and recall of the positive class; macro F1 is the mean over both "
        "classes.", two_classes.f1, formula="2 hits / (support + predictions), of the positive class",
        interval=intervals.JACCARD, paired=intervals.ZOU, column="F1 (positive)",
        source='scikit-learn\'s f1_score, average="binary"',
    ),
    _positive(
        "average_precision", "AP", "Average precision (step sum) of the positive class. Nearly equal scores count as "
        "evenly mixed; scikit-learn takes equal ones as one threshold, within the bound.",
        two_classes.average_precision, needs_logits=True, column="AP (positive)",
        formula="Σ_k precision_k (recall_k − recall_{k−1})", interval=intervals.DELETE_ONE_OF_CLASS,
        paired=intervals.JACKKNIFE, source="scikit-learn's average_precision_score",
    ),
    _positive(
        "auroc", "AUROC", "Area under the ROC curve: how often an image of the positive class has a higher score than "
        "one of the other.", two_classes.auroc, needs_logits=True,
        formula="P(p of a positive image > p of another), ties count half", interval=intervals.DELETE_ONE_OF_CLASS,
        paired=intervals.JACKKNIFE,
        source="Hanley & McNeil 1982; scikit-learn's roc_auc_score",
    ),
)  # fmt: skip


def _calibration(name: str, label: str, definition: str, compute: Callable[..., Any], **more: Any) -> MetricSpec:
    defaults: dict[str, Any] = {"better": "less", "curve": False, "precision": "single precision"}
    return MetricSpec(
        name=f"calibration/{name}", label=label, definition=definition, compute=compute, needs_logits=True,
        **(defaults | more),
    )  # fmt: skip


CALIBRATION = (
    _calibration(
        "ece", "ECE",
        "Expected calibration error: how far accuracy is from confidence in 15 equal-width bins, mean over images.",
        calibration.ece, from_confidence=True,
        column="ECE", curve=True, suggested=True, interval=intervals.DELETE_ONE, paired=PAIRED_BINS,
        formula="Σ_b |hits_b − Σ confidence_b| / n", source="Naeini et al. 2015",
    ),
    _calibration(
        "ece_equal_mass", "equal-mass ECE", "Expected calibration error in 15 bins of equally many images.",
        calibration.ece_equal_mass, from_confidence=True, curve=True, formula="as ECE", source="Nixon et al. 2019",
    ),
    _calibration(
        "ece_classwise", "class-wise ECE",
        "Calibration error of each class against the rest in 15 equal-width bins, mean over all classes.",
        calibration.ece_classwise, curve=True, formula="mean over c of Σ_b |hits_cb − Σ p_cb| / n",
        source="Kull et al. 2019; Nixon et al. 2019 call it SCE",
    ),
    _calibration(
        "mce", "MCE", "Maximum calibration error: that of the worst of 15 equal-width bins, even if it has one image.",
        calibration.mce, from_confidence=True,
        curve=True, formula="max_b |hits_b − Σ confidence_b| / n_b", source="Naeini et al. 2015",
    ),
    _calibration(
        "brier_reliability", "Brier reliability",
        "The part of the Brier score that calibration would remove (Murphy 1973), 15 bins a class.",
        calibration.brier_reliability, range=(0, 2), formula="Σ_c Σ_b (Σ p_cb − hits_cb)² / (n_cb n)",
        source="Murphy 1973",
    ),
    _calibration(
        "brier_resolution", "Brier resolution",
        "The part of the Brier score that telling images apart has removed, 15 bins a class.",
        calibration.brier_resolution, better="more", formula="Σ_c Σ_b n_cb (hits_cb / n_cb − share_c)² / n",
        source="Murphy 1973",
    ),
    _calibration(
        "brier_uncertainty", "Brier uncertainty", "Brier score of always predicting the shares of the classes.",
        calibration.brier_uncertainty, better="neither", formula="Σ_c share_c (1 − share_c)", source="Murphy 1973",
    ),
    _calibration(
        "temperature", "temperature",
        "The number to divide logits by (Guo 2017), fitted on half of a sample; above 1 if over-confident.",
        calibration.temperature, better="neither", range=(1 / 16, 16), formula="argmin_T of the NLL of logits / T",
        source="Guo et al. 2017", precision="0.01 %, measured; of the sample",
    ),
    _calibration(
        "nll_before", "NLL before", "Mean negative log-likelihood on the other half of the sample, nats.",
        calibration.nll_before, unit="nats", range=(0, inf), formula="as NLL",
        precision="single precision; of the sample",
    ),
    _calibration(
        "nll_after", "NLL after",
        "Mean negative log-likelihood on the same half, logits divided by the temperature, nats.",
        calibration.nll_after,
        unit="nats", range=(0, inf), formula="as NLL", precision="0.00001, measured; of the sample",
    ),
    _calibration(
        "ece_before", "ECE before", "Expected calibration error on the other half of the sample.",
        calibration.ece_before, formula="as ECE", precision="single precision; of the sample",
    ),
    _calibration(
        "ece_after", "ECE after",
        "Expected calibration error on the same half, logits divided by the temperature.", calibration.ece_after,
        formula="as ECE",
        precision="0.00002, and 2 / n for each image within 0.0004 of an edge, measured; of the sample",
    ),
    _calibration(
        "conformal_coverage", "coverage", "Share of images whose prediction set contains the true class (LAC, target "
        "90 %).",
        calibration.conformal_coverage, better="more", interval=intervals.WILSON,
        formula="share of images with p(true class) ≥ threshold", source="Sadinle, Lei & Wasserman 2019",
        precision="its threshold, rounded down",
    ),
    _calibration(
        "conformal_size", "set size", "Mean number of classes in a prediction set; its threshold comes from one half "
        "of the images, the mean from the other.",
        calibration.conformal_size, unit="classes", range=(0, inf),
        formula="mean over images of the number of c with p_c ≥ threshold", source="Sadinle, Lei & Wasserman 2019",
        precision="its threshold, rounded down",
    ),
)  # fmt: skip

CLASSES = (
    MetricSpec(
        name="classes/*/support", label="images", definition="Images of the class that count.", unit="images",
        range=(0, inf), better="neither", curve=False,
    ),
    MetricSpec(
        name="classes/*/precision", label="precision", compute=classification.class_precision,
        definition="Share of the images predicted as the class that are of it.",
        formula="hits_c / predictions_c", interval=intervals.WILSON, paired=intervals.ZOU,
    ),
    MetricSpec(
        name="classes/*/recall", label="recall", compute=classification.class_recall,
        definition="Share of the images of the class that are predicted as it.",
        formula="hits_c / support_c", interval=intervals.WILSON, paired=intervals.NEWCOMBE,
    ),
    MetricSpec(
        name="classes/*/f1", label="F1", compute=classification.class_f1,
        definition="Harmonic mean of precision and recall.",
        formula="2 hits_c / (support_c + predictions_c)", interval=intervals.JACCARD, paired=intervals.ZOU,
    ),
    MetricSpec(
        name="classes/*/average_precision", label="average precision", compute=classification.class_average_precision,
        definition="Average precision (step sum) of the class against the rest. Nearly equal scores count as evenly "
        "mixed; scikit-learn takes equal ones as one threshold, within the bound.", needs_logits=True,
        formula="Σ_k precision_k (recall_k − recall_{k−1})", interval=intervals.DELETE_ONE_OF_CLASS,
        source="scikit-learn's average_precision_score",
    ),
    MetricSpec(
        name="classes/*/auroc", label="AUROC", compute=classification.class_auroc, needs_logits=True, curve=False,
        definition="Area under the ROC curve of the class against the rest.",
        formula="P(p_c of an image of c > p_c of another), ties count half", interval=intervals.DELETE_ONE_OF_CLASS,
        source="Hanley & McNeil 1982",
    ),
)  # fmt: skip

SLICES = (
    MetricSpec(
        name="slices/*/images", label="images", definition="Images of the slice that count.", unit="images",
        compute=slices.slice_images, range=(0, inf), better="neither", curve=False,
    ),
    MetricSpec(
        name="slices/*/accuracy", label="accuracy", compute=slices.slice_accuracy,
        definition="Share of the images of the slice whose highest logit is the true class.",
        formula="Σ hits / n, of the slice", interval=intervals.WILSON, paired=intervals.NEWCOMBE,
    ),
    MetricSpec(
        name="slices/*/nll", label="NLL", compute=slices.slice_nll, unit="nats", range=(0, inf), better="less",
        definition=f"Mean negative log-likelihood of the true class over the slice, nats, each cut at "
        f"{slices.MAX_LOSS:g}.",
        formula="mean over images of min(−ln p(true class), 100), of the slice", interval=intervals.MEAN, curve=False,
    ),
)  # fmt: skip

LABEL_ISSUES = (
    MetricSpec(
        name="label_issues/suspected", label="suspected labels", definition="Images whose label may be wrong.",
        unit="images", range=(0, inf), better="neither", needs_logits=True, curve=False,
        source="Northcutt et al. 2021 (confident learning)",
    ),
    MetricSpec(
        name="label_issues/estimated_share", label="estimated share of wrong labels",
        definition="Share of wrong labels by confident learning.", better="neither", needs_logits=True, curve=False,
        source="Northcutt et al. 2021 (confident learning)",
    ),
)  # fmt: skip

METRICS: tuple[MetricSpec, ...] = (
    *(*IMAGES, *OVERALL, *POSITIVE, *CALIBRATION, *CLASSES, *SLICES, *GROUPS, *LABEL_ISSUES),
)
"""All metrics of one label, in the order in which they are shown."""


def metrics_of(task: str) -> tuple[MetricSpec, ...]:
    """Return the table of a task, in the order in which its metrics are shown."""
    return {SINGLE_LABEL: METRICS, MULTI_LABEL: LABEL_METRICS}[task]


def rows(*groups: Group, task: str = SINGLE_LABEL) -> tuple[MetricSpec, ...]:
    """Return the rows of some groups of the table of a task, in its order."""
    return tuple(spec for spec in metrics_of(task) if spec.group in groups)


def find(name: str, *tasks: str) -> MetricSpec | None:
    """Return the row of a metric by its name in `summary.json`, from the first table that has it; None if none has.

    It looks into the tables of all tasks if none is given.

    >>> find("classes/River/recall").label, find("f1_macro").label, find("hamming").label, find("of_another_panel")
    ('recall', 'macro F1', 'Hamming loss', None)
    """
    pattern = pattern_of(name)
    every = (spec for task in tasks or (SINGLE_LABEL, MULTI_LABEL) for spec in metrics_of(task))
    return next((spec for spec in every if spec.name == pattern), None)


def require(name: str, *tasks: str) -> MetricSpec:
    """Return the row of a metric that is in a table, as `find` does."""
    spec = find(name, *tasks)
    if spec is None:
        raise KeyError(f"no metric {name!r}; there are {', '.join(s.name for s in METRICS)}")
    return spec


def pattern_of(name: str) -> str:
    """Return the name of a metric with `*` for its class, slice or level of groups.

    >>> pattern_of("classes/a/b/recall"), pattern_of("slices/country=NO/nll"), pattern_of("calibration/ece")
    ('classes/*/recall', 'slices/*/nll', 'calibration/ece')
    """
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return f"{prefix}*/{name.rpartition('/')[2]}"
    return name


NO_SCORES = (
    "only the predicted class and its confidence are known (import --scores confidence), and this needs the scores of "
    "all classes"
)
"""Reason why a metric is absent from a run without scores."""


def absent_without_scores(two_classes: bool) -> tuple[str, ...]:
    """Return the names of the metrics that a run of two classes, or of another number, does not have without scores."""
    return tuple(spec.name for spec in METRICS if spec.needs_scores and (two_classes or spec.group != "positive"))


def directions(*groups: Group, task: str = SINGLE_LABEL) -> dict[str, Direction]:
    """Return which of two values is better, by the names of the metrics of some groups."""
    return {spec.name: spec.better for spec in rows(*groups, task=task)}


def need_logits(names: Iterable[str], task: str = SINGLE_LABEL) -> bool:
    """Return whether any of these metrics needs logits; one that is not in the table does."""
    specs = [find(name, task) for name in names]
    return any(spec is None or spec.needs_logits for spec in specs)
