"""The plan of stage one, which needs no model, no image and no disk."""

from hypothesis import given
from hypothesis import strategies as st

from predboard.inference.infer import make_plan
from predboard.storage.part_plan import WHOLE_RUN, Share, plan_parts

SHARDS = plan_parts(20, 6)  # rows 0-5, 6-11, 12-17, 18-19


def test_nothing_is_planned_where_every_part_is_valid() -> None:
    plan = make_plan(SHARDS, {1: [], 2: []}, {}, WHOLE_RUN, 2)
    assert (plan.shards, plan.tasks, plan.valid) == (SHARDS, (), 8)


def test_steps_that_lack_the_same_part_share_its_task_as_far_as_their_models_fit() -> None:
    missing = {step: [SHARDS[1]] for step in (1, 2, 3)}
    assert [task.steps for task in make_plan(SHARDS, missing, {}, WHOLE_RUN, 2).tasks] == [(1, 2), (3,)]


def test_failed_rows_of_valid_parts_are_planned_beside_missing_parts() -> None:
    plan = make_plan(SHARDS, {5: [SHARDS[3]]}, {5: {SHARDS[0]: (2, 4)}}, WHOLE_RUN, 1)
    assert [(task.part_range.index, tuple(task.ids)) for task in plan.tasks] == [(0, (2, 4)), (3, (18, 19))]
    assert (plan.valid, sum(task.rows for task in plan.tasks)) == (3, 4)


@given(st.integers(1, 3), st.sets(st.tuples(st.integers(1, 4), st.integers(0, 3))), st.integers(1, 4))
def test_each_missing_row_of_a_share_is_planned_once(number: int, lacking: set[tuple[int, int]], per_pass: int) -> None:
    share = Share(number, 3)
    missing = {s: [SHARDS[i] for i in range(4) if (s, i) in lacking and share.holds(i)] for s in range(1, 5)}
    plan = make_plan(SHARDS, missing, {}, share, per_pass)
    planned = sorted((step, row) for task in plan.tasks for step in task.steps for row in task.ids)
    assert planned == sorted(
        (step, row) for step, shards in missing.items() for part_range in shards for row in part_range.ids
    )
    assert plan.valid == sum(len(plan.shards) - len(shards) for shards in missing.values())
    assert all(len(task.loaded_steps) <= per_pass for task in plan.tasks)
