"""Tar shards: samples survive, and what no shard may hold is refused in a sentence."""

from __future__ import annotations

import io
import tarfile

import pytest

from vision.scale import shards
from vision.scale.shards import Sample, ShardWriter, read_samples


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return io.BytesIO(buffer.getvalue())


def special(name: str, kind: bytes, **header: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = header
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def read(file: io.BytesIO) -> list[Sample]:
    return list(read_samples(file, "s.tar"))


def test_members_are_grouped_by_their_names_up_to_the_first_dot():
    found = read(
        tar(("a/1.left.jpg", b"l"), ("a/1.right.JPG", b"r"), ("a/1.json", b"{}"), ("a/2.png", b"p"), ("3.txt", b"t"))
    )
    assert [sample.key for sample in found] == ["a/1", "a/2", "3"]
    assert [sample.pictures() for sample in found] == [["left.jpg", "right.JPG"], ["png"], []]
    assert found[0].members == {"left.jpg": b"l", "right.JPG": b"r", "json": b"{}"}


def test_a_written_shard_is_read_back_and_its_bytes_depend_on_its_members_alone(tmp_path):
    samples = [Sample("ä/" + "n" * 200, {"png": b"p" * 1000, "txt": b""}), Sample("2", {"jpg": b"j"})]
    for name in ("a.tar", "b.tar"):
        with ShardWriter(tmp_path / name) as writer:
            for sample in samples:
                writer.add(sample)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert read(io.BytesIO((tmp_path / "a.tar").read_bytes())) == samples


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (tar(("../../1.png", b"p")), "names are relative paths without '..'"),
        (tar(("/1.png", b"p")), "names are relative paths"),
        (tar(("a/" * 600 + "1.png", b"p")), "of at most 1024 bytes"),
        (tar(special("1.png", tarfile.SYMTYPE)), "'1.png', which is a link"),
        (tar(special("1.png", tarfile.LNKTYPE)), "which is a link"),
        (tar(special("1.png", tarfile.CHRTYPE)), "which is a link, a device"),
        (tar(special("1.png", tarfile.FIFOTYPE)), "which is a link, a device"),
        (tar(("1.png", b"p"), ("1.png", b"q")), "holds '1.png' twice"),
        (tar(("1.png", b"p"), ("2.png", b"q"), ("1.txt", b"t")), "'1.txt' apart from the rest of its sample; sort it"),
        (tar(("Makefile", b"p")), "members of samples are called NAME.ENDING"),
        (tar(), "holds no samples"),
        (io.BytesIO(b""), "is no tar file, or is damaged"),
        (io.BytesIO(b"no tar" * 1000), "is no tar file, or is damaged"),
        (io.BytesIO(tar(("1.png", b"p" * 5000)).getvalue()[:3000]), "is no tar file, or is damaged or cut off"),
        (tar(("1.png", b"p" * 900), ("1.jpg", b"p" * 700)), "holds 1600 bytes or more of '1'; at most 1500 are read"),
        (tar(special("1.png", tarfile.REGTYPE, comment="x" * 3_000_000)), "holds a header of more than 1048576 bytes"),
        (tar(*((f"{number}.png", b"p") for number in range(9))), "more than 8 members; split it"),
    ],
)
def test_what_no_shard_may_hold_is_one_sentence(file, sentence, monkeypatch):
    monkeypatch.setattr(shards, "MAX_MEMBERS", 8)
    monkeypatch.setattr(shards, "MAX_SAMPLE_BYTES", 1500 if "1500" in sentence else 1 << 20)
    with pytest.raises(ValueError, match=r"^s.tar ") as refused:
        read(file)
    assert sentence in str(refused.value)
