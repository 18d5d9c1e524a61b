"""What is asked of Ray, and what is said where it is not there; none of this starts one."""

import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predboard import InferConfig, infer
from predboard.errors import InputError
from predboard.invocation import install_command
from predboard.parallel import ray_cluster
from tests import toy

GIB = 2**30


def _node(cpus: float, gpus: float = 0, gib: float = 64) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "memory": gib * GIB}


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([_node(2)], (None, None, None), "1 actor of 2 CPUs"),
        ([_node(2)], (None, None, 1), "2 actors of 1 CPU"),
        ([_node(64), _node(64)], (None, None, None), "8 actors of 16 CPUs"),
        ([_node(8), _node(64, 8), _node(64, 8)], (None, None, None), "16 actors of 1 GPU and 8 CPUs"),
        ([_node(64, 8)], (None, 0.5, None), "16 actors of 0.5 GPU and 4 CPUs"),
        ([_node(64, 8)], (None, 0, None), "4 actors of 16 CPUs"),
        ([_node(64, 8)], (3, None, 4), "3 actors of 1 GPU and 4 CPUs"),
        ([_node(4, 4), _node(32, 4)], (None, None, None), "8 actors of 1 GPU and 1 CPU"),
        ([_node(2)], (8, 1, None), "8 actors of 1 GPU and 2 CPUs"),  # machines that come when they are asked for
        ([_node(0), _node(16)], (None, None, None), "1 actor of 16 CPUs"),  # a head that is not to be used
    ],
)
def test_actors_take_the_resources_that_exist(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], asked: tuple[Any, Any, Any], expected: str
) -> None:
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: nodes)
    assert str(ray_cluster.actor_shape(*asked)) == expected


def test_an_actor_has_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [_node(8), _node(64, 8, 256), _node(64, 8, 128)])
    assert ray_cluster.actor_shape(None, None, None).memory == 16 * GIB


def test_more_than_any_machine_has_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [_node(2)])
    with pytest.raises(
        InputError,
        match=r"an actor needs 0 GPU and 4 CPU, and no machine of the Ray cluster has that \(they have 2 CPU, 0 G",
    ):
        ray_cluster.actor_shape(None, None, 4)


def test_without_ray_the_message_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else there(name))
    data = toy.pictures(tmp_path / "data")
    with pytest.raises(InputError, match=f"^--engine ray needs Ray: {re.escape(install_command(extra='ray'))}$"):
        infer(InferConfig(str(data), toy.model_file(tmp_path), out=tmp_path / "out", engine="ray"))


@given(st.integers(1, 700))
def test_a_tree_merges_everything_in_order_and_few_states_wait(count: int) -> None:
    joins: list[int] = []

    def join(*ones: tuple[int, ...]) -> tuple[int, ...]:
        assert 2 <= len(ones) <= ray_cluster.MERGE_WIDTH + 1
        joins.append(len(ones))
        return tuple(itertools.chain(*ones))

    tree = ray_cluster.MergeTree(join)
    for i in range(count):
        tree.add((i,))
        assert sum(map(len, tree._heights)) <= (ray_cluster.MERGE_WIDTH - 1) * len(tree._heights)
    assert tree.root() == tuple(range(count))
    assert sum(n - 1 for n in joins) == count - 1  # nothing was joined twice


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"actors": 2}, "--actors only works with --engine ray: add that flag or leave this one out"),
        ({"ray_address": "auto"}, "--ray-address only works with --engine ray"),
        ({"gpus_per_actor": 1.0}, "--gpus-per-actor only works with --engine ray"),
        ({"cpus_per_actor": 1}, "--cpus-per-actor only works with --engine ray"),
        ({"engine": "ray", "actors": 0}, "--actors is 0; expected a whole number of at least 1"),
        (
            {"engine": "ray", "gpus_per_actor": -1.0},
            "--gpus-per-actor is -1; expected a number from 0 to 1, or a whole number",
        ),
        (
            {"engine": "ray", "gpus_per_actor": 1.5},
            "--gpus-per-actor is 1.5; expected a number from 0 to 1, or a whole number",
        ),
        ({"engine": "ray", "device": "cuda:0,cuda:1"}, "--device is cuda:0,cuda:1; with --engine ray expected one"),
        ({"max_failures": -1}, "--max-failures is -1; expected a whole number of at least 0"),
    ],
)
def test_contradictory_flags_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        InferConfig("d", "m.py:f", **options)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "127.0.0.1:1",
            r"^no Ray cluster answers at --ray-address 127\.0\.0\.1:1 \(.*\); expected auto, HOST:PORT, or local$",
        ),
        (
            "ray://head:10001",
            r"^the Ray client \(ray://\) is not supported: run the command on a machine of the cluster",
        ),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address: str, words: str) -> None:
    pytest.importorskip("ray", reason="pip install 'predboard[ray]'")
    with pytest.raises(InputError, match=words):
        ray_cluster.connected(address).__enter__()


def test_the_reason_is_taken_from_a_remote_traceback() -> None:
    error = RuntimeError(
        '\x1b[36mray::ask()\x1b[39m (pid=7, ip=10.0.0.2)\n  File "models.py", line 3, in memory_of\n'
        "RuntimeError: No CUDA GPUs are available"
    )
    assert ray_cluster.short_reason(error) == "RuntimeError: No CUDA GPUs are available"


def test_rays_launcher_takes_the_cluster_of_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pytest.importorskip("ray", reason="pip install 'predboard[ray]'")
    pytest.importorskip("jsonschema", reason="comes with Ray")
    yaml: Any = pytest.importorskip("yaml", reason="comes with Ray")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((toy.ROOT / "docs" / "cluster.yaml").read_text("utf-8"))
    whole = prepare_config(config)  # as `ray up` fills it
    validate_config(whole)
    assert set(config) <= set(whole)
    nodes = config["available_node_types"]
    assert config["head_node_type"] in nodes
    head, gpu = (_node(of["CPU"], of.get("GPU", 0)) for of in (nodes["head"]["resources"], nodes["gpu"]["resources"]))
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [head, *[gpu] * config["max_workers"]])
    assert str(ray_cluster.actor_shape(None, None, None)) == "16 actors of 1 GPU and 8 CPUs"
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config({**whole, "no_such_key": 1})
