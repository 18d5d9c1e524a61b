"""The table of the metrics of several labels: what each is called and means, and how sure it is.

A decision is one label of one image. Labels of which it is not known whether they apply are in no decision. Where
images are averaged, 0 / 0 is 1: of an image without labels of which none is predicted everything is right. Where labels
are averaged, 0 / 0 is 0, and a label counts if an image has it or is predicted to. It knows nothing of panels or files.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from predboard.metrics import classification, intervals, slices
from predboard.metrics.metric_spec import MetricSpec, count_metric
from predboard.metrics.multi_label import label_metrics
from predboard.metrics.multi_label.label_thresholds import COMMON, EACH, HALF

JACKKNIFE = intervals.JACKKNIFE_OF_GROUPS
JACKKNIFE_WIDENED = f"{JACKKNIFE}; the bound is added in squares"


IMAGES = (
    count_metric("images", "images", "Rows of predictions, failed ones included.", lambda c, _: int(c.rows)),
    count_metric("images/missing", "missing", "Rows of the manifest without predictions yet.",
                 lambda c, n: n - int(c.rows)),
    count_metric("images/failed", "failed", "Images that could not be read or gave no finite logits.",
                 lambda c, _: int(c.failed)),
    count_metric("images/unlabelled", "unlabelled", "Images of which no label is known to apply or not to apply.",
                 lambda c, _: int(c.unlabelled)),
    count_metric("images/partly_labelled", "partly labelled", "Images that count, but for labels that are unknown.",
                 lambda c, _: int(c.partly)),
    count_metric("images/counted", "counted",
                 "Images with logits of which some label is known: those the metrics count.",
                 lambda c, _: c.metrics.counted),
)  # fmt: skip


def _margins(name: str, label: str, definition: str, function: Callable[..., Any], **more: Any) -> MetricSpec:
    """Return the row of a metric that follows from the margins of all decisions."""
    highest = more.get("range", (0.0, 1.0))[1]
    compute = partial(label_metrics.of_margins, function=function, highest=highest)
    given: dict[str, Any] = {"interval": JACKKNIFE}
    return MetricSpec(name=name, label=label, definition=definition, compute=compute, **(given | more))


def _ranked(name: str, label: str, definition: str, compute: Callable[..., Any], **more: Any) -> MetricSpec:
    """Return the row of a metric that needs all logits."""
    given: dict[str, Any] = {"needs_logits": True, "interval": JACKKNIFE}
    return MetricSpec(name=name, label=label, definition=definition, compute=compute, **(given | more))


_RANKABLE = "over the images that have a label and lack one; scikit-learn counts the others as perfect"

OVERALL = (
    _ranked(
        "average_precision_macro", "mAP",
        "Average precision (step sum) of the images by each label's probability, mean over the labels that some images "
        "have and some lack.",
        label_metrics.average_precision_macro, column="mAP", band=True, suggested=True, interval=JACKKNIFE_WIDENED,
        formula="mean over c of Σ_k precision_k (recall_k − recall_{k−1})",
        source='scikit-learn\'s average_precision_score, average="macro"',
    ),
    _ranked(
        "average_precision_micro", "micro average precision",
        "Average precision (step sum) of all decisions in one ranking.",
        label_metrics.average_precision_micro, interval=JACKKNIFE_WIDENED,
        formula="Σ_k precision_k (recall_k − recall_{k−1})",
        source='scikit-learn\'s average_precision_score, average="micro"',
    ),
    _ranked(
        "auroc_macro", "macro AUROC",
        "Area under the ROC curve of each label, mean over the labels that some images have and some lack.",
        label_metrics.auroc_macro, column="AUROC", band=True, interval=JACKKNIFE_WIDENED,
        formula="mean over c of P(p_c of an image with c > p_c of one without), ties count half",
        source='scikit-learn\'s roc_auc_score, average="macro"',
    ),
    _ranked(
        "auroc_micro", "micro AUROC", "Area under the ROC curve of all decisions in one ranking.",
        label_metrics.auroc_micro, interval=JACKKNIFE_WIDENED,
        formula="P(p of a true label > p of another), ties count half",
        source='scikit-learn\'s roc_auc_score, average="micro"',
    ),
    _margins(
        "f1_macro", "macro F1", "Mean F1 over the labels that an image has or is predicted to have.",
        classification.f1_macro, column="macro F1", band=True, suggested=True,
        formula="mean over present c of 2 hits_c / (support_c + predictions_c)",
        source='scikit-learn\'s f1_score, average="macro", zero_division=0',
    ),
    _margins(
        "f1_micro", "micro F1", "F1 of all decisions together.", classification.f1_micro,
        column="micro F1", band=True, suggested=True,
        formula="2 Σ hits_c / (Σ support_c + Σ predictions_c)",
        source='scikit-learn\'s f1_score, average="micro", zero_division=0',
    ),
    _margins(
        "f1_weighted", "weighted F1", "Mean F1 over labels, weighted by their images.", classification.f1_weighted,
        formula="Σ support_c · F1_c / Σ support_c", source='scikit-learn\'s f1_score, average="weighted"',
    ),
    _margins(
        "precision_micro", "micro precision", "Share of right ones among all predicted labels.",
        label_metrics.precision_micro, formula="Σ hits_c / Σ predictions_c",
        source='scikit-learn\'s precision_score, average="micro", zero_division=0',
    ),
    _margins(
        "recall_micro", "micro recall", "Share of predicted ones among all true labels.", label_metrics.recall_micro,
        formula="Σ hits_c / Σ support_c",
        source='scikit-learn\'s recall_score, average="micro", zero_division=0',
    ),
    _margins(
        "precision_macro", "macro precision", "Mean precision over the labels that an image has or is predicted to "
        "have; a label that is never predicted has 0.",
        classification.precision_macro, formula="mean over present c of hits_c / predictions_c",
        source='scikit-learn\'s precision_score, average="macro", zero_division=0',
    ),
    _margins(
        "recall_macro", "macro recall", "Mean recall over the labels that an image has or is predicted to have; a "
        "label that no image has counts 0.",
        classification.recall_macro, formula="mean over present c of hits_c / support_c",
        source='scikit-learn\'s recall_score, average="macro", zero_division=0',
    ),
    MetricSpec(
        name="exact", label="exact match", column="exact", compute=label_metrics.exact, band=True, suggested=True,
        definition="Share of images whose set of labels is right, label by label (subset accuracy).",
        formula="mean over images of [predicted set = true set]", source="scikit-learn's accuracy_score",
        interval=intervals.WILSON,
    ),
    _margins(
        "jaccard", "Jaccard index", "Size of the intersection of an image's true and predicted labels over that of "
        "their union, mean over images; 1 where both sets are empty.",
        label_metrics.jaccard, column="Jaccard", formula="mean over images of |true ∩ predicted| / |true ∪ predicted|",
        source='scikit-learn\'s jaccard_score, average="samples", zero_division=1',
    ),
    _margins(
        "f1_images", "F1 by image", "F1 of an image's true and predicted labels, mean over images; 1 where both sets "
        "are empty.",
        label_metrics.f1_images, formula="mean over images of 2 |true ∩ predicted| / (|true| + |predicted|)",
        source='scikit-learn\'s f1_score, average="samples", zero_division=1',
    ),
    _margins(
        "hamming", "Hamming loss", "Share of wrong decisions.", label_metrics.hamming, better="less",
        formula="Σ (support_c + predictions_c − 2 hits_c) / decisions", source="scikit-learn's hamming_loss",
    ),
    _ranked(
        "lrap", "LRAP", "Label ranking average precision: of each true label the share of true ones among those with "
        f"at least its probability, mean over an image's labels and {_RANKABLE}.",
        label_metrics.lrap, column="LRAP",
        formula="mean over images of mean over true c of |{true d: p_d ≥ p_c}| / |{d: p_d ≥ p_c}|",
        source="Schapire & Singer 2000; scikit-learn's label_ranking_average_precision_score",
    ),
    _ranked(
        "ranking_loss", "ranking loss", "Share of pairs of a true label and another in the wrong order, ties included, "
        f"mean {_RANKABLE}.",
        label_metrics.ranking_loss, better="less",
        formula="mean over images of |{true c, other d: p_c ≤ p_d}| / (|true| |other|)",
        source="Tsoumakas, Katakis & Vlahavas 2010; scikit-learn's label_ranking_loss",
    ),
    _ranked(
        "one_error", "one-error", f"Share of images whose most probable label is not true, mean {_RANKABLE}; of ties "
        "the expected share.",
        label_metrics.one_error, better="less", formula="mean over images of [argmax_c p_c is not true]",
        source="Schapire & Singer 2000",
    ),
    _ranked(
        "coverage", "coverage", "How many of the most probable labels must be taken to have all true ones, mean over "
        "images; 0 for an image without labels.",
        label_metrics.coverage, better="less", range=(0, inf), unit="labels",
        formula="mean over images of max over true c of |{d: p_d ≥ p_c}|", source="scikit-learn's coverage_error",
    ),
    MetricSpec(
        name="bce", label="cross-entropy", definition="Binary cross-entropy, mean over decisions, nats.",
        compute=label_metrics.bce, column="BCE", better="less", unit="nats", range=(0, inf), band=True,
        formula="mean over decisions of −ln p(true answer)", interval=JACKKNIFE,
    ),
    _ranked(
        "brier", "Brier score", "Squared distance of the probability from the truth, mean over decisions.",
        label_metrics.brier, better="less", formula="mean over decisions of (p − [c is true])²", source="Brier 1950",
    ),
    _ranked(
        "aurc", "AURC", "Area under the risk–coverage curve of sets: share of wrong ones among those of the highest "
        "probability, averaged over how many are kept.",
        label_metrics.set_aurc, better="less", interval=intervals.DELETE_ONE_WIDENED,
        formula="mean over k = 1 … n of the share of wrong sets among the k of the highest probability",
        source="Geifman & El-Yaniv 2017",
    ),
    _margins(
        "labels_per_image", "labels per image", "Mean number of labels of an image.", label_metrics.labels_per_image,
        better="neither", range=(0, inf), unit="labels", formula="Σ support_c / n",
    ),
    _margins(
        "predicted_per_image", "predicted labels per image", "Mean number of predicted labels of an image.",
        label_metrics.predicted_per_image, better="neither", range=(0, inf), unit="labels",
        formula="Σ predictions_c / n",
    ),
)  # fmt: skip

NOTHING = (
    _margins(
        "nothing/exact", "exact match of predicting nothing", "Share of images without a label, which predicting no "
        "label for any image would get right.",
        label_metrics.nothing_exact, better="neither", interval=JACKKNIFE, curve=False,
        formula="mean over images of [true set is empty]",
    ),
    _margins(
        "nothing/hamming", "Hamming loss of predicting nothing", "Share of decisions that predicting no label for any "
        "image would get wrong.",
        label_metrics.nothing_hamming, better="neither", curve=False, formula="Σ support_c / decisions",
    ),
)  # fmt: skip


def _calibration(name: str, label: str, definition: str, **more: Any) -> MetricSpec:
    compute = partial(label_metrics.calibration_metric, name=name)
    given: dict[str, Any] = {"better": "less", "precision": "single precision"}
    return MetricSpec(
        name=f"calibration/{name}", label=label, definition=definition, compute=compute, needs_logits=True,
        **(given | more),
    )  # fmt: skip


CALIBRATION = (
    _calibration(
        "ece_classwise", "class-wise ECE",
        "Calibration error of each label's probability in 15 equal-width bins, mean over the labels.", column="ECE",
        formula="mean over c of Σ_b |hits_cb − Σ p_cb| / decisions_c", source="Kull et al. 2019",
    ),
    _calibration(
        "ece_pooled", "pooled ECE", "Calibration error of the probabilities of all decisions in 15 common bins.",
        formula="Σ_b |hits_b − Σ p_b| / decisions", source="Naeini et al. 2015",
    ),
    _calibration(
        "ece_sets", "ECE of sets",
        "How far the share of right sets is from the probability of the predicted set, in 15 equal-width bins.",
        interval=intervals.DELETE_ONE, formula="Σ_b |right_b − Σ confidence_b| / n", source="Naeini et al. 2015",
    ),
    _calibration(
        "temperature", "temperature",
        "The number to divide all logits by, fitted on one half of the images; above 1 if over-confident.",
        better="neither", range=(1 / 16, 16), formula="argmin_T of the cross-entropy of logits / T", curve=False,
        source="Guo et al. 2017", precision="of histograms of 4,096 bins",
    ),
    _calibration(
        "bce_before", "cross-entropy before", "Binary cross-entropy on the other half, mean over decisions, nats.",
        unit="nats", range=(0, inf), formula="as cross-entropy", precision="of histograms of 4,096 bins", curve=False,
    ),
    _calibration(
        "bce_after", "cross-entropy after", "The same with all logits divided by the temperature, nats.",
        unit="nats", range=(0, inf), formula="as cross-entropy", precision="of histograms of 4,096 bins", curve=False,
    ),
)  # fmt: skip

_WAYS = {
    HALF: "at probability 1/2",
    COMMON: "at the common threshold of the greatest micro F1 on one half of the images",
    EACH: "at thresholds of the labels' own, of the greatest F1 on one half of the images",
}

THRESHOLDS = tuple(
    MetricSpec(
        name=f"thresholds/{average}_{way}", label=f"{label}, {way}",
        definition=f"{label[0].upper()}{label[1:]} on the other half of the images, {words}.",
        compute=partial(label_metrics.at_thresholds, way=way, average=average), needs_logits=True,
        formula=f"as {label}", interval=JACKKNIFE,
    )
    for average, label in (("f1_macro", "macro F1"), ("f1_micro", "micro F1"))
    for way, words in _WAYS.items()
)  # fmt: skip

CLASSES = (
    MetricSpec(
        name="classes/*/support", label="images", definition="Images that have the label.", unit="images",
        range=(0, inf), better="neither", curve=False,
    ),
    MetricSpec(
        name="classes/*/precision", label="precision", compute=classification.class_precision,
        definition="Share of the images predicted to have the label that have it.",
        formula="hits_c / predictions_c", interval=intervals.WILSON,
    ),
    MetricSpec(
        name="classes/*/recall", label="recall", compute=classification.class_recall,
        definition="Share of the images with the label that are predicted to have it.",
        formula="hits_c / support_c", interval=intervals.WILSON,
    ),
    MetricSpec(
        name="classes/*/f1", label="F1", compute=classification.class_f1,
        definition="Harmonic mean of precision and recall.",
        formula="2 hits_c / (support_c + predictions_c)", interval=intervals.JACCARD,
    ),
    MetricSpec(
        name="classes/*/average_precision", label="average precision", compute=classification.class_average_precision,
        definition="Average precision (step sum) of the images by the probability of the label. Nearly equal logits "
        "count as evenly mixed; scikit-learn takes equal ones as one threshold, within the bound.", needs_logits=True,
        formula="Σ_k precision_k (recall_k − recall_{k−1})", interval=intervals.DELETE_ONE_OF_CLASS,
        source="scikit-learn's average_precision_score",
    ),
    MetricSpec(
        name="classes/*/auroc", label="AUROC", compute=classification.class_auroc, needs_logits=True, curve=False,
        definition="Area under the ROC curve of the images by the probability of the label.",
        formula="P(p_c of an image with c > p_c of one without), ties count half",
        interval=intervals.DELETE_ONE_OF_CLASS, source="Hanley & McNeil 1982",
    ),
)  # fmt: skip

SLICES = (
    MetricSpec(
        name="slices/*/images", label="images", definition="Images of the slice that count.", unit="images",
        compute=slices.slice_images, range=(0, inf), better="neither", curve=False,
    ),
    MetricSpec(
        name="slices/*/accuracy", label="exact match", compute=slices.slice_accuracy,
        definition="Share of the images of the slice whose set of labels is right.",
        formula="mean over images of [predicted set = true set], of the slice", interval=intervals.WILSON,
    ),
    MetricSpec(
        name="slices/*/jaccard", label="Jaccard index", compute=slices.slice_jaccard, curve=False,
        definition="Size of the intersection of an image's true and predicted labels over that of their union, mean "
        "over the images of the slice; 1 where both sets are empty.",
        formula="mean over images of |true ∩ predicted| / |true ∪ predicted|, of the slice", interval=intervals.MEAN,
        source='scikit-learn\'s jaccard_score, average="samples", zero_division=1',
    ),
    MetricSpec(
        name="slices/*/nll", label="cross-entropy", compute=slices.slice_nll, unit="nats", range=(0, inf),
        better="less",
        definition=f"Binary cross-entropy of an image's labels, mean over the images of the slice, nats, each cut at "
        f"{slices.MAX_LOSS:g}.",
        formula="mean over images of min(mean over labels of −ln p(true answer), 100), of the slice",
        interval=intervals.MEAN, curve=False,
    ),
)  # fmt: skip

LABEL_ISSUES = tuple(
    MetricSpec(
        name=f"label_issues/{name}", label=label, definition=definition, unit=unit, range=(0, inf), better="neither",
        needs_logits=True, curve=False, source="Northcutt et al. 2021 (confident learning), each label by itself",
    )
    for name, label, unit, definition in (
        ("suspected", "suspected labels", "decisions", "Labels of images that may be wrong: given or lacking."),
        ("suspected_images", "images with suspected labels", "images", "Images with a label that may be wrong."),
        ("lacking", "labels that may be lacking", "decisions", "Labels that images may have, but are not given."),
        ("too_many", "labels too many", "decisions", "Labels that are given, but that images may not have."),
    )
)  # fmt: skip

LABEL_METRICS: tuple[MetricSpec, ...] = (
    *IMAGES,
    *OVERALL,
    *NOTHING,
    *CALIBRATION,
    *THRESHOLDS,
    *CLASSES,
    *SLICES,
    *LABEL_ISSUES,
)
"""All metrics of several labels, in the order in which they are shown."""
