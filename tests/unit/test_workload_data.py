"""Data of the training programs: sample order, token files, text, S3, and preparation of token files."""

import importlib.util
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))

from training.data import open_tokens
from training.errors import DataError
from training.point_files import open_points
from training.sampling import Cursor, Shard, shuffled
from training.tokenizing import ByteTokenizer

CONTAINERS = Path(__file__).parents[2] / "containers"
LENGTH = 8


def make_options(**changes: object) -> Namespace:
    chosen = {
        "data": None,
        "tokenizer": None,
        "text_key": "text",
        "cache_dir": Path("/nonexistent/cache"),
        "batch_size": 2,
        "seed": 7,
        "features": 3,
        "classes": 2,
    }
    return Namespace(**(chosen | changes))


def opened(options: Namespace, *, shard: Shard | None = None, vocabulary: int = 300):
    return open_tokens(options, shard or Shard(), vocabulary=vocabulary, length=LENGTH)


def taken(batches, count: int) -> list[list[int]]:
    return [row for _ in range(count) for row in batches.take().tolist()]


def write_tokens(folder: Path, name: str, tokens: list[int], **index: object) -> Path:
    path = folder / f"{name}.bin"
    path.write_bytes(np.array(tokens, dtype="<u2").tobytes())
    values = {"format": 1, "dtype": "uint16", "tokens": len(tokens), "documents": 1}
    values |= {"vocabulary": 257, "tokenizer": "bytes"} | index
    path.with_suffix(".json").write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("total", [1, 2, 3, 10, 64, 1000])
def test_sample_order_of_an_epoch_is_a_permutation(total):
    numbers = np.arange(total)
    first, second = (shuffled(numbers, total, seed=1, epoch=epoch).tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == numbers.tolist()
    assert total < 10 or (first != second and first != numbers.tolist())


def test_shards_take_every_sample_of_an_epoch_once():
    cursors = [Cursor(total=24, seed=3, shard=Shard(index=index, count=3)) for index in range(3)]
    samples = [sample for _ in range(2) for cursor in cursors for sample in cursor.take(4).tolist()]
    assert sorted(samples) == list(range(24))


def test_epoch_continues_without_repetition_if_the_number_of_shards_changes():
    alone = Cursor(total=24, seed=3, shard=Shard())
    before = alone.take(12).tolist()
    cursors = [Cursor(total=24, seed=3, shard=Shard(index=i, count=2), taken=alone.taken) for i in range(2)]
    after = [sample for cursor in cursors for sample in cursor.take(6).tolist()]
    assert sorted(before + after) == list(range(24))


def test_synthetic_data_resume_at_the_next_batch():
    options = make_options()
    whole, resumed = opened(options), opened(options)
    taken(whole, 3)
    resumed.seek([whole.position()])
    assert taken(resumed, 2) == taken(whole, 2)


def test_token_files_yield_all_samples_and_resume_at_the_next_sample(tmp_path):
    write_tokens(tmp_path, "a", list(range(100, 100 + 4 * LENGTH + 1)))
    write_tokens(tmp_path, "b", list(range(200, 200 + 2 * LENGTH + 1)))
    options = make_options(data=[str(tmp_path)])
    batches = opened(options)
    rows = taken(batches, 3)
    starts = [100 + LENGTH * n for n in range(4)] + [200 + LENGTH * n for n in range(2)]
    assert sorted(rows) == [list(range(start, start + LENGTH + 1)) for start in starts]
    resumed = opened(options)
    resumed.seek([batches.position()])
    assert taken(resumed, 2) == taken(batches, 2)


def test_token_array_without_an_index_file_is_read(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(LENGTH + 1, dtype=np.uint32))
    assert taken(opened(make_options(data=[str(tmp_path / "tokens.npy")], batch_size=1)), 1) == [
        list(range(LENGTH + 1))
    ]


def damage_truncated(folder: Path) -> None:
    path = write_tokens(folder, "a", list(range(50)))
    path.write_bytes(path.read_bytes()[:-10])


def damage_index(folder: Path) -> None:
    write_tokens(folder, "a", list(range(50))).with_suffix(".json").write_text("{")


def damage_no_index(folder: Path) -> None:
    write_tokens(folder, "a", list(range(50))).with_suffix(".json").unlink()


def damage_mixed(folder: Path) -> None:
    write_tokens(folder, "a", list(range(50)))
    write_tokens(folder, "b", list(range(50)), tokenizer="sha256:0123")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncated, r"a.bin: has 90 bytes, but its index counts 50 tokens of uint16"),
        (damage_index, r"a.json: damaged index"),
        (damage_no_index, r"a.bin: has no index a.json; prepare.py writes both"),
        (damage_mixed, r"b.bin: made with the tokenizer sha256:0123, .*a.bin is bytes"),
        (lambda folder: write_tokens(folder, "a", [1] * 50, vocabulary=50000), "vocabulary of 50000 tokens"),
        (lambda folder: write_tokens(folder, "a", [1] * 3), "fewer than the 9 tokens of one sequence"),
        (lambda folder: np.save(folder / "a.npy", np.zeros((2, 2))), "2 dimensions of float64"),
        (lambda folder: (folder / "a.npy").write_bytes(b"no array"), "a.npy: "),
        (lambda folder: (folder / "a.parquet").touch(), "no file named"),
    ],
)
def test_damaged_or_unsuitable_token_file_is_refused(tmp_path, damage, message):
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        opened(make_options(data=[str(tmp_path)]))


def test_token_outside_the_vocabulary_is_reported_with_file_and_position(tmp_path):
    np.save(tmp_path / "a.npy", np.array([*range(LENGTH), 40_000], dtype=np.uint16))
    with pytest.raises(DataError, match=r"a.npy: token 8 is 40000, .* has 300 tokens"):
        opened(make_options(data=[str(tmp_path)])).take()


def test_missing_folder_is_reported(tmp_path):
    with pytest.raises(DataError, match="no such file or folder on this node"):
        opened(make_options(data=[str(tmp_path / "missing")]))


def test_changed_data_files_are_refused_on_resuming(tmp_path):
    write_tokens(tmp_path, "a", list(range(50)))
    options = make_options(data=[str(tmp_path)])
    position = opened(options).position()
    write_tokens(tmp_path, "b", list(range(50)))
    with pytest.raises(DataError, match="written with 6 sequences in --data, but there are 12 now"):
        opened(options).seek([position])


def write_text(folder: Path) -> tuple[Namespace, list[str]]:
    documents = [f"document number {number}" for number in range(12)]
    (folder / "a.txt").write_text("\n".join(documents[:6]) + "\n\n")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents[6:]))
    return make_options(data=[str(folder)], tokenizer="bytes"), documents


def joined(rows: list[list[int]]) -> list[int]:
    """Return the token stream of sequences that overlap by one token."""
    return [*(token for row in rows for token in row[:-1]), rows[-1][-1]]


def test_text_is_tokenized_joined_and_cut(tmp_path):
    options, documents = write_text(tmp_path)
    stream = [token for text in documents for token in [*text.encode(), ByteTokenizer.end]]
    found = joined(taken(opened(options), 8))
    assert found == stream[: len(found)]


@pytest.mark.parametrize("count", [1, 3])
def test_text_data_resume_at_the_next_token_even_across_epochs(tmp_path, count):
    options, _ = write_text(tmp_path)
    shards = [Shard(index=index, count=count) for index in range(count)]
    running = [opened(options, shard=shard) for shard in shards]
    for batches in running:
        taken(batches, 20)
    positions = json.loads(json.dumps([batches.position() for batches in running]))
    for shard, batches in zip(shards, running, strict=True):
        resumed = opened(options, shard=shard)
        resumed.seek(positions)
        assert taken(resumed, 5) == taken(batches, 5)


def test_text_of_two_shards_is_disjoint(tmp_path):
    options, documents = write_text(tmp_path)
    streams = [
        bytes(t for t in joined(taken(opened(options, shard=Shard(index=i, count=2)), 5)) if t < 256)
        for i in range(2)
    ]
    starts = [text for text in documents if any(text.encode() in stream for stream in streams)]
    assert starts
    for text in starts:
        assert sum(text.encode() in stream for stream in streams) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\n\xff\xfe\n", r"a.txt:2: not UTF-8: byte 0xff at 0"),
        ("a.jsonl", b'{"text": "good"}\n{"text": \n', r"a.jsonl:2: invalid JSON"),
        ("a.jsonl", b'{"body": "x"}\n', r"a.jsonl:1: no text under the key 'text'; --text-key"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1: no text under the key"),
        ("a.txt", b"\n\n", "no text in the 1 files"),
    ],
)
def test_unreadable_text_is_reported_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    batches = opened(make_options(data=[str(tmp_path)], tokenizer="bytes"))
    with pytest.raises(DataError, match=message):
        taken(batches, 5)


def test_text_needs_a_tokenizer_that_fits_the_model(tmp_path):
    write_text(tmp_path)
    with pytest.raises(DataError, match="text needs --tokenizer"):
        opened(make_options(data=[str(tmp_path)]))
    with pytest.raises(DataError, match="bytes has 257 tokens, but the model's vocabulary has 256"):
        opened(make_options(data=[str(tmp_path)], tokenizer="bytes"), vocabulary=256)


def test_text_and_token_files_cannot_be_mixed(tmp_path):
    write_text(tmp_path)
    write_tokens(tmp_path, "a", list(range(50)))
    with pytest.raises(DataError, match="pass one kind"):
        opened(make_options(data=[str(tmp_path)], tokenizer="bytes"))


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare", CONTAINERS / "common" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prepared_token_files_contain_the_text_and_need_no_further_options(tmp_path, prepare, capsys):
    _, documents = write_text(tmp_path)
    output = tmp_path / "tokens"
    words = [str(tmp_path), "--tokenizer", "bytes", "--output", str(output), "--file-tokens", "100"]
    assert prepare.prepare(prepare.parse(words)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["documents"], printed["files"]) == (12, len(list(output.glob("*.bin"))))
    stored = b"".join(path.read_bytes() for path in sorted(output.glob("*.bin")))
    stream = [token for text in documents for token in [*text.encode(), ByteTokenizer.end]]
    assert np.frombuffer(stored, dtype="<u2").tolist() == stream
    assert len(taken(opened(make_options(data=[str(output)])), 3)) == 6
    assert not list(output.glob("*.partial"))


def test_labelled_points_of_npz_files_are_read_and_checked(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, points=np.eye(3), labels=np.array([0, 1, 0]))
    points, labels = open_points(make_options(data=[str(path)], batch_size=3), Shard()).take()
    assert sorted(zip(points.tolist(), labels.tolist(), strict=True)) == [
        ([0.0, 0.0, 1.0], 0),
        ([0.0, 1.0, 0.0], 1),
        ([1.0, 0.0, 0.0], 0),
    ]
    with pytest.raises(DataError, match="3 features; pass --features 3"):
        open_points(make_options(data=[str(path)], features=4), Shard())
    with pytest.raises(DataError, match="labels are not integers below --classes 1"):
        open_points(make_options(data=[str(path)], classes=1), Shard())
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a.npz: "):
        open_points(make_options(data=[str(path)]), Shard())


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve an S3 bucket on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="training-data")
    yield "training-data"
    server.stop()


def test_s3_objects_are_cached_and_replaced_by_new_versions(tmp_path, bucket):
    client = boto3.client("s3")
    options = make_options(data=[f"s3://{bucket}/tokens/"], cache_dir=tmp_path / "cache", batch_size=1)
    for tokens in (list(range(LENGTH + 1)), list(range(50, 50 + LENGTH + 1))):
        path = write_tokens(tmp_path, "a", tokens)
        for file in (path, path.with_suffix(".json")):
            client.upload_file(str(file), bucket, f"tokens/{file.name}")
        assert taken(opened(options), 1) == [tokens]
    assert len(list((tmp_path / "cache").rglob("a.bin"))) == 2


def test_missing_bucket_and_missing_index_are_reported(tmp_path, bucket):
    options = make_options(data=["s3://missing/tokens"], cache_dir=tmp_path)
    with pytest.raises(DataError, match=r"s3://missing/tokens: .*NoSuchBucket"):
        opened(options)
    client = boto3.client("s3")
    client.upload_file(str(write_tokens(tmp_path, "a", [1] * 50)), bucket, "a.bin")
    with pytest.raises(DataError, match=r"s3://training-data/a.json"):
        opened(make_options(data=[f"s3://{bucket}/a"], cache_dir=tmp_path))
