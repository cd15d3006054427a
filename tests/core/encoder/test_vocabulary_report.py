"""What is told of an alignment: over the vocabulary, over the targets, and which tokens are lost."""

from __future__ import annotations

from distillctl.core.encoder.alignment import align_vocabularies
from distillctl.core.encoder.vocabulary_report import vocabulary_facts
from tests.tokenizers import CODET5_SPECIALS, roberta_bpe

CORPUS = ["assert alpha == beta", "self.assertEqual(alpha, beta)"] * 4
STUDENT = roberta_bpe(CORPUS, 300, CODET5_SPECIALS)


def test_tokens_of_the_vocabulary_and_of_the_targets_are_counted_apart() -> None:
    found = align_vocabularies(STUDENT, roberta_bpe(CORPUS[1:2], 280))
    lost = STUDENT.convert_tokens_to_ids("<extra_id_1>")
    facts = vocabulary_facts(found, STUDENT, [(lost, lost, 2), (7, 2)])
    assert not facts["same_vocabulary"]
    assert sum(facts["student_tokens"].values()) == len(STUDENT)
    assert facts["target_tokens"] == {"exact": 3, "by_pieces": 0, "altered": 0, "none": 2}
    assert facts["without_counterpart"] == ["<extra_id_1>", "<extra_id_0>"]  # the one in use first
    assert "of 5 target tokens 60.00 % exact, 0.00 % by pieces, 40.00 % without counterpart" in facts["summary"]


def test_the_same_vocabulary_needs_no_numbers() -> None:
    facts = vocabulary_facts(align_vocabularies(STUDENT, STUDENT), STUDENT, [(5, 2)])
    assert (facts["same_vocabulary"], facts["summary"]) == (True, "the student's own vocabulary")
    assert facts["without_counterpart"] == []
