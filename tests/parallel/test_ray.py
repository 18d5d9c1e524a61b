"""Actors of a Ray on this machine give the rows of one process, whatever dies meanwhile."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from predboard import InferConfig, infer, open_predictions
from predboard.cli import main
from predboard.errors import InputError
from predboard.parallel import ray_cluster
from predboard.parallel.ray_workers import RayWorkers
from predboard.parallel.scheduler import Finished, Progress, Ready, Scheduler
from predboard.storage import part_plan
from predboard.storage.inspection import inspect
from predboard.storage.part_plan import Task
from tests import toy

pytestmark = pytest.mark.ray
torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")
if importlib.util.find_spec("ray") is None:  # not imported here: every process of the quick tests reads this file
    pytest.skip("pip install 'predboard[ray]'", allow_module_level=True)

EUROSAT = toy.SHARED / "eurosat_rgb"
EACH, ROWS, SHARD = 15, 45, 8

_NET = """
import os
import signal
import time
import torch

class Net(torch.nn.Module):
    def __init__(self, slow=0.0, once="", always=False, raises=False):
        super().__init__()
        torch.manual_seed(3)
        self.head = torch.nn.Linear(3, 3)
        self.slow, self.once, self.always, self.raises, self.seen = slow, once, always, raises, 0

    def forward(self, x):
        time.sleep(self.slow)
        self.seen += len(x) > 1  # one picture alone is the trial before
        white = bool((x.amin((1, 2, 3)) == 1).any())
        if self.always and white:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.once and self.seen > 2:
            try:  # the first that comes here dies, and nobody after it
                os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if self.raises and white:
            raise MemoryError("enough")
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture(scope="module", autouse=True)
def _ray_of_this_machine() -> Iterator[None]:
    with toy.small_ray():
        yield


@pytest.fixture
def place(tmp_path: Path) -> Path:
    data = toy.pictures(tmp_path / "data", each=EACH)
    (data / "b" / "007.png").write_bytes(b"broken")
    (tmp_path / "net.py").write_text(_NET)
    return tmp_path


def _config(place: Path, **options: Any) -> InferConfig:
    given: dict[str, Any] = {
        "data": str(place / "data"),
        "model": f"{place / 'net.py'}:Net",
        "out": place / "out",
        "shard_size": SHARD,
        "batch_size": 3,
        "preflight": 0,
        **options,
    }
    return InferConfig(**given)


def _on_ray(place: Path, actors: int = 2, **options: Any) -> InferConfig:
    return _config(place, engine="ray", actors=actors, cpus_per_actor=1, **options)


def _frame(out: Path, step: int | None = None) -> pd.DataFrame:
    frame: pd.DataFrame = open_predictions(out, step).to_pandas()
    return frame


def _same(one: Path, other: Path, step: int | None = None) -> None:
    pd.testing.assert_frame_equal(_frame(one, step), _frame(other, step), rtol=1e-5, atol=1e-6)


def _whiten(place: Path, name: str) -> None:
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(place / "data" / f"{name}.png")


def _left(out: Path) -> list[str]:
    """Hidden files besides the lock."""
    return sorted(p.name for p in out.rglob(".*") if p.name != ".lock")


def test_two_actors_give_the_rows_of_one_process(place: Path) -> None:
    said: list[str] = []
    outcome = infer(_on_ray(place), said.append)
    assert (outcome.complete, outcome.failed, outcome.written, outcome.threads) == (True, 1, ROWS, 1)
    assert said[0] == "Ray cluster: 1 machine, 2 CPUs, 0 GPUs; using 2 actors of 1 CPU"
    assert outcome.seconds["decode"] > 0
    infer(_config(place, out=place / "alone"))
    _same(place / "out", place / "alone")
    assert inspect(place / "out").complete
    assert _left(place / "out") == []
    assert infer(_on_ray(place)).written == 0


def test_a_run_started_by_one_engine_is_completed_by_the_other(place: Path) -> None:
    infer(_config(place, out=place / "alone"))
    for first, second in ((_config, _on_ray), (_on_ray, _config)):
        out = place / first.__name__
        infer(first(place, out=out, part=(1, 2)))
        before = {p: p.stat().st_mtime_ns for p in out.glob("*/*.parquet")}
        assert len(before) == 3
        outcome = infer(second(place, out=out))
        assert (outcome.complete, outcome.written) == (True, ROWS - 24)
        assert before.items() <= {p: p.stat().st_mtime_ns for p in out.glob("*/*.parquet")}.items()
        _same(out, place / "alone")


def test_labels_alone_are_rewritten_as_one_process_does_byte_for_byte(place: Path) -> None:
    table = place / "data/list.csv"
    lines = [f"{name}/{i:03d}.png,{name}" for name in "abc" for i in range(EACH)]
    table.write_text("\n".join(["image,label", *lines, ""]))
    infer(_on_ray(place, data=str(table)))
    shutil.copytree(place / "out", place / "alone")
    before = {path.name: path.read_bytes() for path in place.glob("out/*/*.parquet")}
    lines[3], lines[44] = lines[3].replace(",a", ",c"), lines[44].replace(",c", ",b")  # in the first and the last part
    table.write_text("\n".join(["image,label", *lines, ""]))
    said: list[str] = []
    outcome = infer(_on_ray(place, data=str(table), update=True), said.append)
    assert (outcome.written, outcome.complete) == (0, True)
    assert any("2 labels and what follows from them rewritten, without running the model" in line for line in said)
    infer(_config(place, data=str(table), out=place / "alone", update=True))
    files = {path.relative_to(place / "out"): path.read_bytes() for path in place.glob("out/*/*.parquet")}
    assert files == {path.relative_to(place / "alone"): path.read_bytes() for path in place.glob("alone/*/*.parquet")}
    assert sum(before[path.name] != content for path, content in files.items()) == 2
    assert _left(place / "out") == []


def test_a_killed_actor_is_replaced_and_the_rows_are_the_same(place: Path) -> None:
    infer(_config(place, out=place / "alone", model_args={"once": ""}))
    said: list[str] = []
    outcome = infer(_on_ray(place, actors=1, model_args={"once": str(place / "killed")}), said.append)
    (line,) = [line for line in said if "unfinished parts" in line]
    assert line.startswith("worker 1 (cpu on ") and line.endswith("starting another worker")
    assert (place / "killed").exists()
    assert (outcome.complete, outcome.failed) == (True, 1)
    _same(place / "out", place / "alone")
    assert _left(place / "out") == []


def test_killing_the_process_of_an_actor_from_outside_changes_nothing(place: Path) -> None:
    (place / "pids").mkdir()
    says = f"time.sleep(0.05); open({str(place / 'pids')!r} + f'/{{os.getpid()}}', 'w').close()"
    (place / "net.py").write_text(_NET.replace("time.sleep(self.slow)", says))
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 300  # a busy machine takes a minute to start Ray
        while time.monotonic() < until and not list((place / "out").glob("*/part-*.parquet")):
            time.sleep(0.01)
        killed.append(next(pid for p in (place / "pids").iterdir() if (pid := int(p.name)) != os.getpid()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    said: list[str] = []
    outcome = infer(_on_ray(place), said.append)
    killer.join()
    assert any(f"process {killed[0]}) died; unfinished parts: " in line for line in said)
    assert outcome.complete
    infer(_config(place, out=place / "alone"))
    _same(place / "out", place / "alone")


def test_a_part_on_which_workers_die_becomes_rows_with_an_error(place: Path) -> None:
    infer(_config(place, out=place / "alone", model_args={"always": False}))
    _whiten(place, "b/005")  # row 20, in part 2: rows 16 to 23
    said: list[str] = []
    outcome = infer(_on_ray(place, model_args={"always": True}), said.append)
    assert (outcome.complete, outcome.failed) == (True, 8)
    assert sum("unfinished parts" in line for line in said) == 3
    frame = _frame(place / "out")
    lost = frame.index[frame["error"].fillna("").str.startswith("WorkerDied: 3 workers died on part 2, the last died")]
    assert lost.tolist() == list(range(16, 24))
    others = [i for i in range(ROWS) if i not in lost]
    alone = _frame(place / "alone")
    pd.testing.assert_frame_equal(frame.loc[others], alone.loc[others], rtol=1e-5, atol=1e-6, check_dtype=False)
    assert (frame["label"] == alone["label"]).all() and (frame["image"] == alone["image"]).all()
    assert infer(_on_ray(place, model_args={"always": True})).written == 0
    (place / "data" / "b" / "005.png").write_bytes((place / "data" / "b" / "006.png").read_bytes())
    assert infer(_on_ray(place, model_args={"always": True}, retry_errors=True)).failed == 1


def test_max_failures_stops_with_one_line_and_what_was_published_stays(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b/006", "b/008", "c/010"):
        (place / "data" / f"{name}.png").write_bytes(b"broken")
    flags = ["infer", "--data", str(place / "data"), "--model", f"{place / 'net.py'}:Net", "--out", str(place / "out")]
    flags += ["--shard-size", str(SHARD), "--preflight", "0", "--engine", "ray", "--actors", "1"]
    assert main.run([*flags, "--max-failures", "2"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("predboard: 3 rows failed, more than --max-failures 2: the error column of ")
    assert (place / "out" / "step=00000000" / "part-00002.parquet").exists()
    assert _left(place / "out") == []
    assert main.run([*flags, "--max-failures", "4"]) == 0
    assert "41 ok, 4 failed" in capsys.readouterr().out


def test_the_exception_of_an_actor_is_raised(place: Path) -> None:
    _whiten(place, "b/005")
    with pytest.raises(RuntimeError, match=r"worker \d \(cpu on .*\): Traceback[\s\S]*MemoryError: enough"):
        infer(_on_ray(place, model_args={"raises": True}))
    assert _left(place / "out") == []


def test_workers_that_cannot_start_are_one_line(place: Path) -> None:
    (place / "net.py").write_text(f"import os\nif os.getpid() != {os.getpid()}:\n    os._exit(3)\n{_NET}")
    with pytest.raises(
        InputError,
        match=r"^3 workers in a row died before their first part, the last died; nothing that was written is lost$",
    ):
        infer(_on_ray(place))


class _LacksAPackage:
    def __reduce__(self) -> Any:
        return importlib.import_module, ("no_such_module",)


def test_a_machine_that_lacks_a_package_is_one_line() -> None:
    lacking: Any = _LacksAPackage()
    host = RayWorkers(lacking, ray_cluster.ActorShape(1, 0, 1, 0), "cpu", None, None, print)
    scheduler: Scheduler[int] = Scheduler(host, [1], print, print, str, lambda *_: (0, 0))
    words = r"^3 workers in a row died before their first part, the last could not start \(ModuleNotFoundError: "
    with pytest.raises(InputError, match=words) as met:
        scheduler.run(1)
    assert "\n" not in str(met.value)
    with pytest.raises(
        InputError, match=r"^a worker cannot start on the Ray cluster: ModuleNotFoundError: No module na"
    ):
        ray_cluster.call_remote(ray_cluster.ActorShape(1, 0, 1, 0), importlib.import_module, "no_such_module")


def test_more_than_a_machine_has_is_one_line(place: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"an actor needs 1 GPU and 2 CPU, and no machine of the Ray cluster has that \(they have 2 CPU, 0 G",
    ):
        infer(_config(place, engine="ray", gpus_per_actor=1.0))


def test_many_small_parts_are_handed_out_a_few_at_a_time(place: Path) -> None:
    toy.pictures(place / "many", each=200)
    outcome = infer(_on_ray(place, data=str(place / "many"), shard_size=4, batch_size=64))
    assert (outcome.complete, outcome.written) == (True, 600)


def test_the_command_starts_a_ray_of_its_own_whose_workers_run_this_package(place: Path) -> None:
    names = ("infer", "--data", "data", "--model", "net.py:Net", "--out", "out", "--shard-size", str(SHARD))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "predboard", *names, "--engine", "ray", "--ray-address", "local"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert "44 ok, 1 failed" in done.stdout
    infer(_config(place, out=place / "alone"))
    _same(place / "out", place / "alone")


def test_the_command_joins_a_cluster_that_is_there_and_leaves_it_as_it_was(place: Path) -> None:
    import ray

    done = toy.predboard(
        *("infer", "--data", "data", "--model", "net.py:Net", "--out", "out", "--shard-size", str(SHARD)),
        *("--engine", "ray", "--ray-address", ray.get_runtime_context().gcs_address, "--cpus-per-actor", "1"),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert "44 ok, 1 failed" in done.stdout
    assert "Ray cluster: 1 machine, 2 CPUs, 0 GPUs; using 2 actors of 1 CPU" in done.stderr
    assert ray.is_initialized() and ray_cluster.call_remote(ray_cluster.ActorShape(1, 0, 1, 0), abs, -2) == 2
    infer(_config(place, out=place / "alone"))
    _same(place / "out", place / "alone")


def test_storage_is_shared_without_a_folder_in_common(place: Path) -> None:
    pytest.importorskip("moto", reason="a server that speaks S3")
    from tests.object_storage import Server

    server = Server()
    try:
        server.client.create_bucket(Bucket="bucket")
        for file in sorted((place / "data").rglob("*.png")):
            key = file.relative_to(place).as_posix()
            server.client.put_object(Bucket="bucket", Key=key, Body=file.read_bytes())
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**keys, "AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true"}.items():
                patch.setenv(name, value)
            on_ray = ("--engine", "ray", "--ray-address", "local")
            done = toy.predboard(
                *(
                    "infer",
                    "--data",
                    "s3://bucket/data",
                    "--model",
                    f"{place / 'net.py'}:Net",
                    "--out",
                    "s3://bucket/out",
                ),
                *("--shard-size", "8", "--preflight", "0", "--actors", "2", "--cpus-per-actor", "1", *on_ray),
            )
            assert done.returncode == 0, done.stderr
            assert "44 ok, 1 failed" in done.stdout
            done = toy.predboard("visualize", "s3://bucket/out", "--logdir", "s3://bucket/logs", *on_ray)
            assert done.returncode == 0, done.stderr
            assert any(".tfevents." in key for key in server.keys("bucket", "logs/out/"))
            infer(_config(place, out=place / "alone"))
            found = open_predictions("s3://bucket/out").to_pandas()
            pd.testing.assert_frame_equal(found, _frame(place / "alone"), rtol=1e-5, atol=1e-6)
    finally:
        server.close()


def does_nothing(
    _: Any, load_job: Callable[[], Any], receive: Callable[[], Any], send: Callable[[object], object]
) -> None:
    """Read ahead one task, and report each as finished."""
    load_job()
    hand: list[Task] = []
    while True:
        send(Ready(waits=not hand))
        if (task := receive()) is not None:
            hand.append(task)
        elif not hand:
            send(Finished({}))
            return
        if task is None or len(hand) > 1:
            send(Progress(10, 0, hand.pop(0)))


def test_neither_memory_nor_work_of_the_driver_grows_with_the_parts() -> None:
    parts, at, rows = 8000, [(0.0, 0)], 0

    def wrote(more: int, failed: int) -> None:
        nonlocal rows
        rows += more + failed
        if rows % 10_000 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            at.append((resident / 1e6, counted.calls))

    tasks = part_plan.plan_tasks(
        {0: {part_range: part_range.ids for part_range in part_plan.plan_parts(10 * parts, 10)}}, 1
    )
    host = RayWorkers(does_nothing, ray_cluster.ActorShape(2, 0, 1, 0), "cpu", None, None, print)
    scheduler: Scheduler[Task] = Scheduler(host, tasks, wrote, print, str, lambda task, _: (task.rows, task.rows))
    with toy.CountCalls() as counted:
        scheduler.run(2)
    assert rows == 10 * parts
    (half, a), (_, b), *_, (_, c), (whole, d) = at[parts // 2000 :]  # by then what Ray keeps at hand is full
    assert whole - half < 4, "megabytes"
    assert d - c < 2 * (b - a), "calls of functions for a thousand parts"


@pytest.mark.parametrize("processes", [0, 1])
def test_actors_have_the_checkpoints_datasets_and_transforms_of_the_user(place: Path, processes: int) -> None:
    files, options = toy.code_of_the_user(place, steps=2)
    infer(_config(place, out=place / "alone", checkpoint=tuple(files), **options))
    infer(_config(place, checkpoint=tuple(files[:1]), **options))
    outcome = infer(_on_ray(place, checkpoint=tuple(files), processes=processes, **options))
    assert (outcome.complete, outcome.failed, outcome.written) == (True, 1, ROWS)
    for step in (1, 2):
        _same(place / "out", place / "alone", step)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_the_command_and_its_ray_and_the_run_can_be_resumed(
    place: Path, number: signal.Signals, code: int, word: str
) -> None:
    flags = ["infer", "--data", str(place / "data"), "--model", f"{place / 'net.py'}:Net", "--out", str(place / "out")]
    flags += ["--shard-size", str(SHARD), "--batch-size", "2", "--preflight", "0", "--model-args", "slow=0.3"]
    flags += ["--engine", "ray", "--ray-address", "local"]
    with subprocess.Popen(
        [sys.executable, "-m", "predboard", *flags],
        env={**os.environ, "PYTHONPATH": toy.PYTHONPATH},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=toy.heed_ctrl_c,
    ) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and not list((place / "out").glob("*/part-*.parquet")):
            time.sleep(0.05)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1].partition(";")[0]) == (code, f"predboard: {word}")
    assert "Traceback" not in said
    left = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True, check=False).stdout.split()
    assert [pid for pid in left if pid != str(process.pid)] == []
    assert _left(place / "out") == []
    assert 0 < len(list((place / "out").glob("*/part-*.parquet"))) < -(-ROWS // SHARD)
    assert infer(_config(place, model_args={"slow": 0.3})).complete


def test_an_unreachable_cluster_is_one_line(place: Path) -> None:
    done = toy.predboard(
        *("infer", "--data", place / "data", "--model", f"{place / 'net.py'}:Net", "--out", place / "out"),
        *("--engine", "ray", "--ray-address", "127.0.0.1:1"),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("predboard: no Ray cluster answers at --ray-address 127.0.0.1:1 (")
    assert "Traceback" not in done.stderr
