"""What reports say of what the analysis finds."""

from __future__ import annotations

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.interactions import Interaction, Interactions
from ablab.analysis.scaling import Exponent
from ablab.report.notes import notes_of as verdict_notes
from ablab.report.sentences import verdict_sentence
from ablab.report.study_notes import study_notes
from ablab.report.study_sentences import exponent_sentence, interaction_sentence, interactions_sentence


def sentence_of(found: Comparison | Interaction | Interactions | Exponent) -> str:
    if isinstance(found, Comparison):
        return verdict_sentence(found)
    if isinstance(found, Interaction):
        return interaction_sentence(found)
    return interactions_sentence(found) if isinstance(found, Interactions) else exponent_sentence(found)


def notes_of(found: Comparison | Comparisons) -> tuple[str, ...]:
    return tuple(verdict_notes(found) if isinstance(found, Comparison) else study_notes(found))
