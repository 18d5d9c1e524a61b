"""The rows of the table of metrics that are of groups of classes. It knows nothing of panels, files or drawing.

`*` stands for a level; of all levels together, `all`, is the height of mistakes.
"""

from math import inf

from predboard.metrics import classification, group_counts, intervals
from predboard.metrics.metric_spec import MetricSpec

_SUMMED = "Of the group of highest summed probability, which can be another than that of the predicted class: "

GROUPS = (
    MetricSpec(
        name="groups/*/accuracy", label="accuracy", compute=group_counts.accuracy, curve=False,
        definition="Share of images whose predicted class is in the group of the true class.",
        formula="Σ hits_g / n", interval=intervals.WILSON, paired=intervals.NEWCOMBE,
    ),
    MetricSpec(
        name="groups/*/balanced_accuracy", label="balanced accuracy", margins=classification.balanced_accuracy,
        definition="Mean recall over groups with images.", interval=intervals.BOOTSTRAP,
        paired=intervals.PAIRED_BOOTSTRAP, formula="mean over g with support_g > 0 of hits_g / support_g", curve=False,
    ),
    MetricSpec(
        name="groups/*/f1_macro", label="macro F1", margins=classification.f1_macro,
        definition="Mean F1 over groups with images or predictions; division by zero counts 0.",
        interval=intervals.BOOTSTRAP, paired=intervals.PAIRED_BOOTSTRAP,
        formula="mean over present g of 2 hits_g / (support_g + predictions_g)", curve=False,
    ),
    MetricSpec(
        name="groups/*/errors_inside", label="errors inside", compute=group_counts.errors_inside, curve=False,
        definition="Share of the images with a wrong class whose predicted class is in the group of the true class.",
        formula="wrong class, right group / wrong class", interval=intervals.WILSON,
    ),
    MetricSpec(
        name="groups/*/mistake_height", label="mistake height", compute=group_counts.mistake_height, better="less",
        definition="Mean number of levels up to the lowest group that joins the true and the predicted class, over "
        "the wrong predictions: 1 inside a group of the finest level. Only of levels that refine each other.",
        formula="mean over errors of the height of the lowest common group", interval=intervals.MEAN,
        range=(0, inf), unit="levels", curve=False,
        source="Bertinetto et al. 2020 (hierarchical distance of a mistake)",
    ),
    MetricSpec(
        name="groups/*/accuracy_summed", label="accuracy, summed", compute=group_counts.accuracy_summed,
        definition=f"{_SUMMED}share of images where it is the true one.",
        formula="share of images with argmax_g Σ_{c in g} p_c the true group", needs_logits=True,
        interval=intervals.WILSON, curve=False,
    ),
    MetricSpec(
        name="groups/*/balanced_accuracy_summed", label="balanced accuracy, summed",
        margins=classification.balanced_accuracy, definition=f"{_SUMMED}mean recall over groups with images.",
        formula="as balanced accuracy", needs_logits=True, interval=intervals.BOOTSTRAP, curve=False,
    ),
    MetricSpec(
        name="groups/*/f1_macro_summed", label="macro F1, summed", margins=classification.f1_macro,
        definition=f"{_SUMMED}mean F1 over groups with images or predictions; division by zero counts 0.",
        formula="as macro F1", needs_logits=True, interval=intervals.BOOTSTRAP, curve=False,
    ),
)  # fmt: skip
