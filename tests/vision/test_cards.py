"""Model cards: the hub reads what stands in front of them, and nobody's card is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon3d import GTRReconstructor
from restoration.iter import ITERRestorer
from reward_vlm import R1Judge
from vision.cards import LIBRARY, TASKS, read_card, write_card

PROJECT = Path(__file__).resolve().parents[2]
CARDS = sorted(PROJECT.glob("*/pretrained/**/README.md"))


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.parent.name)
def test_cards_of_the_weights_that_come_along_tell_the_hub_what_they_are(card):
    data = read_card(card)
    assert data["library_name"] == LIBRARY and data["license"] == "apache-2.0" and LIBRARY in data["tags"]
    assert data["pipeline_tag"] in {*TASKS, "image-classification"}
    assert "**Licence**: Apache-2.0" in card.read_text(encoding="utf-8")


def test_publishing_writes_a_card_and_keeps_one_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    restorer = ITERRestorer.from_pretrained("builtin:tiny-mini")
    with pytest.raises(ValueError, match=r"Cannot upload .* as 'org/mine'"):
        restorer.push_to_hub("org/mine", tmp_path, license="cc-by-4.0")
    card = tmp_path / "README.md"
    told = {"library_name": "burnish", "license": "cc-by-4.0", "pipeline_tag": "image-to-image"}
    assert told.items() <= read_card(card).items()
    assert 'ITERRestorer.from_pretrained("org/mine")' in card.read_text()
    assert ITERRestorer.from_pretrained(tmp_path).config == restorer.config
    card.write_text("# My own words\n")
    with pytest.raises(ValueError, match="Cannot upload"):
        restorer.push_to_hub("org/mine", tmp_path)
    assert card.read_text() == "# My own words\n"


def test_every_system_says_its_task_in_the_words_of_the_hub():
    assert [system.task for system in (ITERRestorer, GTRReconstructor, R1Judge)] == list(TASKS)


def test_metadata_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [apache-2.0\n---\n\n# Mine\n")
    with pytest.raises(ValueError, match=r"The metadata in front of .*README\.md cannot be read"):
        write_card(tmp_path, "org/mine", "ITERRestorer", "image-to-image")
