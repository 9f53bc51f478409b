"""What inputs stand for, where their outputs go, and which share of them is whose. Names only: nothing is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from drsf_cli.batch.inputs import PassedOver, expand
from drsf_cli.batch.run import plan_batch
from drsf_cli.batch.shards import Shard, parse_shard
from drsf_cli.settings import DeidSettings
from weights.errors import InputError, UsageError

SETTINGS = DeidSettings(attack="none")


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def found(inputs, root, **given):
    return [(one.source.relative_to(root).as_posix(), one.place.as_posix()) for one in expand(inputs, **given)]


def outputs(inputs, root, **given):
    batch = plan_batch(inputs, SETTINGS, output=root / "out", **given)
    return [job.output.relative_to(root / "out").as_posix() for job in batch.jobs]


@pytest.fixture
def study(tmp_path):
    return tree(
        tmp_path / "study",
        "drive10.mp4", "drive2.MP4", "notes.txt", ".hidden.mp4", ".cache/a.mp4",
        "p1/front.avi", "p1/still.png", "p1/frames/1.png", "p1/frames/2.png", "p2/front.avi",
    )  # fmt: skip


def test_a_folder_is_searched_in_natural_order(study):
    assert found([study], study) == [
        ("drive2.MP4", "drive2.MP4"),
        ("drive10.mp4", "drive10.mp4"),
        ("p1/front.avi", "p1/front.avi"),
        ("p1/still.png", "p1/still.png"),
        ("p1/frames", "p1/frames"),
        ("p2/front.avi", "p2/front.avi"),
    ]


def test_outputs_mirror_the_tree(study, tmp_path):
    assert outputs([study], tmp_path) == [
        "drive2_deid.mp4",
        "drive10_deid.mp4",
        "p1/front_deid.mp4",
        "p1/still_deid.png",
        "p1/frames_deid",
        "p2/front_deid.mp4",
    ]


def test_a_folder_of_nothing_but_pictures_is_one_sequence(tmp_path):
    pictures = tree(tmp_path / "frames", "1.png", "2.png")
    assert found([pictures], tmp_path) == [("frames", "frames")]
    batch = plan_batch([pictures], SETTINGS)
    assert not batch.several
    assert batch.jobs[0].output == tmp_path / "frames_deid"


def test_several_folders_keep_their_names(tmp_path):
    tree(tmp_path, "a/front.mp4", "b/front.mp4")
    assert outputs([tmp_path / "a", tmp_path / "b"], tmp_path) == ["a/front_deid.mp4", "b/front_deid.mp4"]


def test_globs(study, tmp_path):
    assert found([study / "p*"], study)[0] == ("p1/front.avi", "p1/front.avi")
    assert outputs([study / "**" / "*.avi"], tmp_path) == ["p1/front_deid.mp4", "p2/front_deid.mp4"]
    with pytest.raises(InputError, match="matches nothing"):
        expand([study / "*.mov"])


def test_each_input_is_taken_once(study):
    assert len(expand([study, study / "drive10.mp4", study / "*.mp4"])) == 6


def test_files_of_neither_kind_are_counted(study):
    tree(study, "p1/a.360", "p1/b.360", "p1/c.THM", "p1/d.LRV", "p1/e.insv", "p2/f.gif")
    over = PassedOver()
    sources = [one.source.name for one in expand([study], None, over)]
    assert {"d.LRV", "e.insv", "f.gif"} < set(sources)
    assert over.suffixes == {".360": 2, ".thm": 1, ".txt": 1}
    assert over.sentences() == [
        "files that are neither videos nor pictures by name: 2 .360, 1 .thm, 1 .txt; name them to have them read."
    ]
    assert plan_batch([study], SETTINGS, output=study.parent / "out").passed_over == tuple(over.sentences())


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "avif", "jfif"])
def test_pictures_of_phones_are_found(suffix, tmp_path):
    pictures = tree(tmp_path / "frames", f"1.{suffix}", f"2.{suffix}")
    assert found([pictures], tmp_path) == [("frames", "frames")]


BINS = ("@eaDir", "#recycle", "$RECYCLE.BIN", ".Trash-1000", "System Volume Information", "@Recycle")


def test_what_a_file_server_keeps_is_passed_over(tmp_path):
    """Thumbnails of Synology lie in a folder named as the video, and would fail each batch; the others hold what people
    withdrew."""
    names = [f"{name}/a.mp4/SYNOVIDEO.jpg" for name in BINS] + [f"p1/{name}/b.mp4" for name in BINS]
    tree(tmp_path / "in", "a.mp4", "p1/b.mp4", *names)
    for given in ([tmp_path / "in"], [tmp_path / "in" / "**" / "*.mp4"], [tmp_path / "in" / "*"]):
        over = PassedOver()
        assert sorted(one.source.name for one in expand(given, None, over)) == ["a.mp4", "b.mp4"]
        named = {path.relative_to(tmp_path / "in").as_posix() for path in over.bins}
        hidden = {".Trash-1000", "p1/.Trash-1000"} if "*" in str(given) else set()  # no glob matches them
        assert named | hidden >= {*BINS, *(f"p1/{name}" for name in BINS)} - hidden
        assert over.sentences()[-1].startswith("folders of thumbnails and deleted files: ")
    assert found([tmp_path / "in" / "#recycle"], tmp_path / "in") != [], "what is named is read"


def test_a_name_with_brackets_that_is_there_is_no_glob(tmp_path):
    path = tree(tmp_path, "drive[1].mp4") / "drive[1].mp4"
    assert found([path], tmp_path) == [("drive[1].mp4", "drive[1].mp4")]


def test_links_are_followed_into_each_folder_once(tmp_path):
    tree(tmp_path, "elsewhere/a.mp4", "in/b.mp4")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert [source for source, _ in found([tmp_path / "in"], tmp_path)] == ["in/b.mp4", "in/link/a.mp4"]


def test_the_folder_of_the_outputs_is_not_searched(tmp_path):
    tree(tmp_path, "in/a.mp4", "in/out/a_deid.mp4")
    assert found([tmp_path / "in"], tmp_path, leave_out=tmp_path / "in" / "out") == [("in/a.mp4", "a.mp4")]
    with pytest.raises(UsageError, match="choose another"):
        plan_batch([tmp_path / "in"], SETTINGS, output=tmp_path / "in")


@pytest.mark.parametrize(
    "names", [("a.avi", "a.mp4"), ("a.mp4", "a_deid.mp4.report.json")], ids=["one stem", "a report's name"]
)
def test_a_name_is_never_used_twice(names, tmp_path):
    tree(tmp_path / "in", *names)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"input,output\nin/{names[0]},\nin/{names[1]},\n")
    if names[1].endswith(".json"):
        manifest.write_text(f"input,output\nin/{names[0]},\nin/{names[0]},in/{names[1]}\n")
    with pytest.raises(UsageError, match="would both be written to"):
        plan_batch([], SETTINGS, manifest=manifest, output=tmp_path / "out")


def test_a_searched_folder_needs_a_folder_to_go_to(study, tmp_path):
    with pytest.raises(UsageError, match="-o DIR"):
        plan_batch([study], SETTINGS)
    there = tree(tmp_path, "out.mp4") / "out.mp4"
    with pytest.raises(UsageError, match="is a file"):
        plan_batch([study], SETTINGS, output=there)
    with pytest.raises(UsageError, match="there is no input"):
        plan_batch([], SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video"):
        plan_batch([tmp_path / "empty"], SETTINGS, output=tmp_path / "out")


# -- shards -----------------------------------------------------------------------------------------------------------


def test_shards_share_everything_once():
    items = list(range(11))
    shares = [Shard(number, 4).of(items) for number in (1, 2, 3, 4)]
    assert shares[0] == [0, 4, 8]
    assert sorted(item for share in shares for item in share) == items


def test_shards_of_a_batch(study, tmp_path):
    shares = [outputs([study], tmp_path, shard=Shard(number, 4)) for number in (1, 2, 3, 4)]
    assert sorted(item for share in shares for item in share) == sorted(outputs([study], tmp_path))
    batch = plan_batch([study], SETTINGS, output=tmp_path / "out", shard=Shard(2, 4))
    assert batch.summary == tmp_path / "out" / "drsf-summary.2-of-4.json"


def slurm(own, first, count, step=1):
    names = {"ID": own, "MIN": first, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("2/3", {}, Shard(2, 3)),
        ("slurm", slurm(0, 0, 4), Shard(1, 4)),
        ("slurm", slurm(8, 1, 8), Shard(8, 8)),
        ("SLURM", slurm(5, 1, 4, step=2), Shard(3, 4)),  # --array=1-7:2
    ],
)
def test_parse_shard(text, environment, expected):
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("0/3", {}),
        ("4/3", {}),
        ("x", {}),
        ("1/0", {}),
        ("slurm", {}),
        ("slurm", slurm(9, 1, 3)),
        ("slurm", slurm(2, 1, 4, step=2)),
    ],
)
def test_what_is_no_shard(text, environment):
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text, environment)


# -- manifests --------------------------------------------------------------------------------------------------------


def jobs(folder, name, text, **given):
    manifest = folder / name
    manifest.write_text(text)
    return plan_batch([], DeidSettings(**given), manifest=manifest, output=folder / "out").jobs


def test_a_csv_manifest(tmp_path):
    tree(tmp_path, "p1/a.mp4", "p1/b.mp4", "more/c.mp4", "more/d.mp4")
    text = (
        "input,output,mask,batch-size,region,gaze,audio,start\n"
        'p1/a.mp4,,solid,7,"1,2,3,4; 5,6,7,8@0-2",none,copy,1.5\n'
        "p1/b.mp4,other/name.mkv,,,,,,\n"
        "more,,blur_9,,,,,\n"
    )
    a, b, c, d = jobs(tmp_path, "list.csv", text, crf=30, codec="ffv1")
    assert [job.output.relative_to(tmp_path / "out") for job in (a, b, c, d)] == [
        Path("p1/a_deid.mkv"),
        Path("other/name.mkv"),
        Path("more/c_deid.mkv"),
        Path("more/d_deid.mkv"),
    ]
    assert (a.settings.mask, a.settings.batch_size, a.settings.start, a.settings.crf) == ("solid", 7, 1.5, 30)
    assert a.settings.regions == ("1,2,3,4", "5,6,7,8@0-2")
    assert a.settings.victims.gaze is None
    assert a.settings.audio == "copy"
    assert b.settings == DeidSettings(crf=30, codec="ffv1")
    assert d.settings.mask == "blur_9"


def test_a_jsonl_manifest(tmp_path):
    tree(tmp_path, "a.mp4", "b.mp4")
    text = (
        '{"input": "a.mp4", "attack": "sgd:momentum=0.9", "region": ["1,2,3,4"], '
        '"crf": 18, "camera": "cam.yml", "on-no-face": "solid"}\n\n'
        '{"input": "b.mp4", "min_face": 30, "detector": null}\n'
    )
    a, b = jobs(tmp_path, "list.jsonl", text)
    assert (a.settings.crf, a.settings.camera, a.settings.on_no_face) == (18, tmp_path / "cam.yml", "solid")
    assert a.settings.attack_settings.options["momentum"] == 0.9
    assert a.settings.regions == ("1,2,3,4",)
    assert b.settings.min_face == 30


def test_a_row_chooses_its_chain(tmp_path):
    tree(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "input,chain,gaze\na.mp4,mediapipe,\nb.mp4,,none\nc.mp4,hcmus,mpiigaze\n"
    a, b, c = (job.settings.victims for job in jobs(tmp_path, "list.csv", text))
    assert (a.detector, a.aligner, a.gaze) == ("blazeface", "facemesh", "iris")
    assert (b.detector, b.aligner, b.gaze) == ("mtcnn", "fan-compact", None)
    assert (c.detector, c.aligner, c.gaze) == ("retinaface", "fan", "mpiigaze")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.csv", "input,colour\na.mp4,red\n", "line 2: column 'colour' is unknown"),
        ("l.csv", "output\nx.mp4\n", "line 2: input is missing"),
        ("l.csv", "input,crf\na.mp4,\na.mp4,good\n", r"line 3: crf \(--crf\): 'good' .* from 0 to 51"),
        ("l.csv", "input,crf\na.mp4,99\n", r"line 2: crf \(--crf\): 99 .* from 0 to 51"),
        ("l.csv", "input,detector\na.mp4,yolo\n", "line 2: .*yolo"),
        ("l.csv", "input,chain\na.mp4,dlib\n", "line 2: .*--chain dlib is unknown"),
        ("l.jsonl", '{"input": "a.mp4", "chain": 3}\n', "line 1: chain is a name, not 3"),
        ("l.csv", "input,on-no-face\na.mp4,hide\n", "'hide' .* refuse, solid or copy"),
        ("l.csv", "input\na.mp4,1,2\n", "more cells"),
        ("l.csv", "input,output\na.mp4,../x.mp4\n", "leaves the folder"),
        ("l.csv", "input,output\n*.mp4,x.mp4\n", "stands for several"),
        ("l.csv", "input,device\na.mp4,cpu\n", "unknown"),
        ("l.csv", "", "has no row"),
        ("l.jsonl", '{"input": "a.mp4"}\n{"input"\n', "line 2: this is not JSON"),
        ("l.jsonl", "[1]\n", "not a JSON object"),
        ("l.jsonl", '{"input": "a.mp4", "crf": 1.5}\n', r"line 1: crf \(--crf\): 1.5 .* whole number"),
        ("l.jsonl", '{"input": "a.mp4", "crf": true}\n', "True .* whole number"),
        ("l.txt", "a.mp4\n", "neither a .csv nor a .jsonl"),
    ],
)
def test_what_is_no_manifest(name, text, words, tmp_path):
    tree(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises((UsageError, InputError), match=words):
        jobs(tmp_path, name, text)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        plan_batch([], SETTINGS, manifest=tmp_path / "no.csv", output=tmp_path)
